"""Import from formats that contain the store's own arrays, so that nothing has to be assembled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.convert import described
from dom2data.convert.ingest import Imported, clipped, refused

_NEEDED = {"observations": 3, "actions": 3, "rewards": 2, "offsets": 1, "terminated": 1, "truncated": 1}
_OPTIONAL = {"source": 1, "parent_episode": 1}


def imported(
    format_: str,
    path: Path,
    found: dict[str, NDArray[Any]],
    note: str | bytes | None,
    env: str | None,
    clip: bool,
) -> Imported:
    """Import the arrays as they are. Raises UserError (code 3) if one is missing or has other axes."""
    arrays = {name: array for name, array in found.items() if name in _NEEDED | _OPTIONAL}
    for name, axes in (_NEEDED | _OPTIONAL).items():
        if (name in arrays and arrays[name].ndim != axes) or (name not in arrays and name in _NEEDED):
            shape = arrays[name].shape if name in arrays else "none"
            raise refused(f"{path.name}: expected an array {name!r} with {axes} axes, found {shape}")
    derived = {"returns", "agent_returns"}
    unknown = sorted(set(found) - set(arrays) - derived)
    notes = [f"not taken: {', '.join(unknown)}"] if unknown else []
    if env is not None:
        what = described.from_env(env)
    elif note is not None:
        what = described.from_note(note)
    else:
        _, n, width = arrays["observations"].shape
        if len(arrays["offsets"]) < 2 or arrays["rewards"].shape[1:] != (n,) or 0 in arrays["actions"].shape:
            raise refused(f"{path.name}: expected episodes of {n} agents, found none")
        horizon = int(np.diff(arrays["offsets"]).max())
        if not 0 < horizon <= len(arrays["actions"]):
            raise refused(f"{path.name}: expected increasing offsets, found others")
        what = described.from_numbers(format_, (width,) * n, arrays["actions"], arrays["rewards"], horizon)
    if clip:
        arrays["actions"], says = clipped(what.spec, arrays["actions"])
        notes.append(says)
    return what.imported(arrays, notes, format_, {path.name: path}, {"env": env, "clip": clip})
