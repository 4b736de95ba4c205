"""The shipped checkpoints and their descriptions (``zoo/zoo.json``)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "zoo"


@cache
def _read(folder: Path) -> dict[str, Any]:
    file = folder / "zoo.json"
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        for entry in found.values():
            float(entry["noise"]), float(entry.get("medium_level", 0.0))
            [float(value) for value in entry["references"].values()]
            for policy in entry["policies"].values():
                Path(policy["file"]), str(policy["sha256"]), range(policy["env_steps"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected {file} as it was written, found it changed ({what})") from error
    return found


def entry(env: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Policies, reference returns and noise of an environment. Raises ValueError if it has none."""
    zoo = _read(folder)
    if env not in zoo:
        raise ValueError(
            f"expected an environment with checkpoints ({', '.join(zoo) or 'none'}), found {env!r}"
        )
    return zoo[env]


def path(env: str, name: str, folder: Path = FOLDER) -> Path:
    """The checkpoint file of a policy such as ``("tag", "medium")``. Raises ValueError if there is none."""
    policies = entry(env, folder)["policies"]
    if name not in policies:
        raise ValueError(f"expected a policy of {env} ({', '.join(policies)}), found {name!r}")
    return folder / policies[name]["file"]


def sha256(env: str, name: str, folder: Path = FOLDER) -> str:
    """The recorded hash of a checkpoint file. Raises ValueError if there is no such checkpoint."""
    path(env, name, folder)
    return entry(env, folder)["policies"][name]["sha256"]
