"""The shipped checkpoints and what is known of each (``zoo/zoo.json``)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "zoo"


@cache
def _read(folder: Path) -> dict[str, Any]:
    file = folder / "zoo.json"
    return json.loads(file.read_text()) if file.exists() else {}


def entry(env: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Policies, reference returns and noise of an environment. Raises ValueError when it has none."""
    zoo = _read(folder)
    if env not in zoo:
        raise ValueError(
            f"expected an environment with checkpoints ({', '.join(zoo) or 'none'}), found {env!r}"
        )
    return zoo[env]


def path(env: str, name: str, folder: Path = FOLDER) -> Path:
    """The checkpoint file of a policy such as ``("tag", "medium")``. Raises ValueError when there is none."""
    policies = entry(env, folder)["policies"]
    if name not in policies:
        raise ValueError(f"expected a policy of {env} ({', '.join(policies)}), found {name!r}")
    return folder / policies[name]["file"]


def sha256(env: str, name: str, folder: Path = FOLDER) -> str:
    """The recorded hash of a checkpoint file. Raises ValueError when there is no such checkpoint."""
    path(env, name, folder)
    return entry(env, folder)["policies"][name]["sha256"]
