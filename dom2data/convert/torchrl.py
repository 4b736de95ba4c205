"""TorchRL: a memory-mapped TensorDict, written and read without TorchRL.

Layout (Bou et al., "TorchRL", ICLR 2024; ``TensorDict.load_memmap(folder)``): a folder per nested
dictionary with ``meta.json`` (shape, dtype of each entry) and a raw little-endian ``<entry>.memmap`` each.
Names are TorchRL's multi-agent names::

    agents/observation [S, N, O]   agents/action [S, N, A]   done, terminated, truncated [S, 1]   episode [S]
    next/agents/observation        next/agents/reward [S, N, 1]
    next/done, next/terminated, next/truncated [S, 1]

The root's done flags are False (no step starts in an ended episode). Our writer adds ``dom2.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.convert import described, files, rows
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.rows import Reading, Rows
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset

_DTYPES = {"torch.float32": "<f4", "torch.float64": "<f8", "torch.bool": "|b1", "torch.int64": "<i8"}
_NAMES = {numpy: torch for torch, numpy in _DTYPES.items()}
_READ = {
    "observations": "agents/observation",
    "actions": "agents/action",
    "rewards": "next/agents/reward",
    "next_observations": "next/agents/observation",
    "done": "next/done",
    "terminated": "next/terminated",
}


def write(dataset: Dataset, path: Path, *, force: bool = False) -> Path:
    """Write the folder ``path`` and return it."""
    found, following, last, terminal = rows.of(dataset)
    never = np.zeros((len(dataset), 1), bool)
    flags = {"done": last[:, None], "terminated": terminal[:, None], "truncated": (last & ~terminal)[:, None]}
    agents = {"observation": following, "reward": found.rewards[..., None]}
    tree = {
        "agents": {"observation": found.observations, "action": found.actions},
        **dict.fromkeys(flags, never),
        "episode": np.repeat(np.arange(dataset.n_episodes), found.lengths),
        "next": {"agents": agents, **flags},
    }
    with staged(path, force) as partial:
        _write(partial, tree, len(dataset))
        (partial / described.FILE).write_text(described.note(dataset, "terminations"))
    return path


def _write(folder: Path, tree: Mapping[str, Any], steps: int) -> None:
    folder.mkdir()
    meta: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _write(folder / name, value, steps)
            meta[name] = {"type": "TensorDict"}
            continue
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        little.tofile(folder / f"{name}.memmap")
        dtype = _NAMES[little.dtype.str]
        meta[name] = {"device": "cpu", "shape": list(value.shape), "dtype": dtype, "is_nested": False}
    meta |= {"shape": [steps], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
    (folder / "meta.json").write_text(json.dumps(meta))


def read(path: Path, *, env: str | None = None, group: str = "agents", clip: bool = False) -> Imported:
    """Read a folder; ``group`` is the agents' key. Raises UserError (code 3) for another layout."""
    files.require(path, "folder")
    found: dict[str, NDArray[Any]] = {}
    used: dict[str, Path] = {}
    for name, place in _READ.items():
        *folders, entry = place.replace("agents", group).split("/")
        if any(part in ("", ".", "..") or "\\" in part for part in folders):
            raise refused(f"expected a plain name of a group, found {group!r}")
        found[name] = _read(path.joinpath(*folders), entry)
        used[f"{'/'.join(folders)}/{entry}"] = path.joinpath(*folders, f"{entry}.memmap")
    ends = rows.flags("next/done", found["done"].reshape(-1))
    steps = len(ends)
    rewards = found["rewards"]
    if found["terminated"].size != steps or rewards.ndim != 3 or rewards.shape[2] != 1:
        raise refused(f"expected reward [S, N, 1] and flags [S, 1], found {rewards.shape} and {steps} flags")
    lengths, more = rows.lengths_from(ends)
    terminated = rows.flags("next/terminated", found["terminated"].reshape(-1))[np.cumsum(lengths) - 1]
    note = files.optional(path / described.FILE)
    reading = Reading("torchrl", used, env, clip, note=note, options={"group": group})
    made = Rows(
        found["observations"],
        found["actions"],
        rewards[..., 0],
        lengths,
        terminated,
        found["next_observations"],
    )
    return rows.imported(made, reading, more)


def _read(folder: Path, name: str) -> NDArray[Any]:
    """Memory-map one entry. Raises UserError (code 3) if meta.json and the file's size do not agree."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())[name]
        shape, dtype = tuple(meta["shape"]), np.dtype(_DTYPES[meta["dtype"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise refused(
            f"{folder / 'meta.json'}: expected {name!r} with a shape and a dtype, found {error!r}"
        ) from error
    file = files.require(folder / f"{name}.memmap", "file")
    plain = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
    if not plain or math.prod(shape) * dtype.itemsize != file.stat().st_size:
        raise refused(f"{file}: expected {dtype} {shape}, found {file.stat().st_size:,} bytes")
    return np.memmap(file, dtype, "r", 0, shape)
