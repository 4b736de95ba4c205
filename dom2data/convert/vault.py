"""OG-MARL's Vault, read and written with only tensorstore (``pip install dom2[vault]``).

Layout (Formanek et al., "Off-the-Grid MARL", AAMAS 2023; flashbax, vault version 1.2)::

    <name>.vlt/<uid>/metadata.json     {"version": 1.2, "structure_shape": {...}, "structure_dtype": {...}}
    <name>.vlt/<uid>/...               an OCDBT key-value store with one Zarr v2 array per leaf, gzip-5

A leaf's name is its path with dots and a dot at the end (``infos.state.``). Its shape is [B, 10^13, ...];
``vault_index`` [1] int32 says how many steps are filled. Leaves: observations [B, T, N, O], actions
[B, T, N, A], rewards, terminals, truncations [B, T, N]. B counts independent streams. Shorter observations
are padded, in some files with -inf. There are no final observations; our writer adds the leaf
``infos.next_observations.`` and the key ``dom2`` to the metadata, which OG-MARL ignores.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from dom2data.convert import described, files, rows
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.rows import Reading, Rows
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset
from dom2data.errors import UserError

_LONGEST = 10**13
_NEEDED = ("observations", "actions", "rewards", "terminals", "truncations")
_NEXT = "infos.next_observations"
_BLOCK = 100_000  # rows written or read at once


def write(dataset: Dataset, path: Path, *, force: bool = False) -> Path:
    """Write the vault ``path``, which should be ``<name>.vlt/<uid>``, and return it."""
    found, following, last, terminal = rows.of(dataset)
    n = dataset.spec.n_agents
    leaves = {
        "observations": found.observations,
        "actions": found.actions,
        "rewards": found.rewards,
        "terminals": np.repeat(terminal[:, None], n, axis=1),
        "truncations": np.repeat((last & ~terminal)[:, None], n, axis=1),
        _NEXT: following,
    }
    with staged(path, force) as partial:
        partial.mkdir()
        for name, array in leaves.items():
            leaf = _open(partial, f"{name}.", array.dtype.name, (1, _LONGEST, *array.shape[1:]))
            for start in range(0, len(array), _BLOCK):
                stop = min(start + _BLOCK, len(array))
                leaf[:, start:stop].write(array[None, start:stop]).result()
        index = _open(partial, "vault_index", "int32", (1,))
        index.write(np.array([len(dataset)], np.int32)).result()
        (partial / "metadata.json").write_text(
            json.dumps(_metadata(leaves) | {described.NOTE: described.note(dataset, "terminations")})
        )
    return path


def _metadata(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    shapes: dict[str, Any] = {"infos": {}}
    dtypes: dict[str, Any] = {"infos": {}}
    for name, array in leaves.items():
        group, _, key = name.rpartition(".")
        (shapes[group] if group else shapes)[key] = str((1, *array.shape))
        (dtypes[group] if group else dtypes)[key] = array.dtype.name
    return {"version": 1.2, "structure_shape": shapes, "structure_dtype": dtypes}


def _open(path: Path, name: str, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> Any:
    spec: dict[str, Any] = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{path.absolute()}/"},
            "path": name,
        },
        "metadata": {"compressor": {"id": "gzip", "level": 5}} if shape else {},
    }
    return ts.open(spec, dtype=dtype, shape=shape, create=shape is not None).result()


def read(
    path: Path, *, env: str | None = None, batch: int | None = None, clip: bool = False, final: str = "drop"
) -> Imported:
    """Read a vault; ``batch`` selects one of several streams [all of them, concatenated].

    Raises UserError: code 3 when the folder is not a valid vault, 2 for a wrong option.
    """
    folder = _folder(path)
    metadata = _read_metadata(folder)
    structure = metadata["structure_shape"]
    infos = structure.get("infos")
    names = _NEEDED + ((_NEXT,) if isinstance(infos, dict) and "next_observations" in infos else ())
    stored = sum(file.stat().st_size for file in _files(folder))
    try:
        length = int(_open(folder, "vault_index").read().result()[0])
        leaves = {name: _leaf(folder, name, length, stored, batch) for name in names}
    except (ValueError, TypeError, OSError, IndexError, KeyError) as error:
        raise refused(
            f"{folder}: expected a readable vault, found {str(error).splitlines()[0][:200]}"
        ) from error
    streams, used = len(leaves["actions"]), {str(f.relative_to(folder)): f for f in _files(folder)}
    if any(leaf.shape[:2] != (streams, length) for leaf in leaves.values()):
        raise refused(
            f"expected leaves of {streams} streams, found {[leaf.shape[:2] for leaf in leaves.values()]}"
        )
    flat = {name: leaf.reshape(streams * length, *leaf.shape[2:]) for name, leaf in leaves.items()}
    terminal, truncation = (
        _flags(name, flat[name], streams, length) for name in ("terminals", "truncations")
    )
    ends = terminal | truncation
    notes: tuple[str, ...] = (f"{streams} streams of {length:,} rows",)
    if open_ends := int((~ends[length - 1 :: length]).sum()):
        notes += (
            f"the rows after the last end of {open_ends} streams counted as episodes that were cut short",
        )
    ends[length - 1 :: length] = True  # an episode does not continue in the next stream
    lengths, _ = rows.lengths_from(ends)
    note = metadata.get(described.NOTE)
    reading = Reading(
        "vault", used, env, clip, final, note if isinstance(note, str) else None, {"batch": batch}
    )
    found = Rows(
        flat["observations"],
        flat["actions"],
        flat["rewards"],
        lengths,
        terminal[np.cumsum(lengths) - 1],
        flat.get(_NEXT),
    )
    return rows.imported(found, reading, notes)


def _flags(name: str, values: np.ndarray, streams: int, length: int) -> np.ndarray:
    joint = rows.flags(name, values.reshape(streams * length, -1))
    if (joint != joint[:, :1]).any():
        raise refused(
            "expected flags alike for all agents, found others; an agent that stops alone is not read"
        )
    return joint[:, 0].copy()


def _folder(path: Path) -> Path:
    """Return ``path`` if it is the folder of a uid, else the folder of the only uid in it."""
    files.require(path, "folder")
    if (path / "metadata.json").is_file():
        return path
    there = sorted(child.name for child in path.iterdir() if (child / "metadata.json").is_file())
    if len(there) != 1:
        raise UserError(f"expected the folder of one vault uid, found {', '.join(there) or 'none'} in {path}")
    return path / there[0]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / "metadata.json").read_bytes())
        structure, version = metadata["structure_shape"], metadata["version"]
        fits = isinstance(structure, dict) and set(_NEEDED) <= set(structure) and version // 1 == 1
        shapes = [ast.literal_eval(structure[name]) for name in _NEEDED]
        fits = fits and all(isinstance(shape, tuple) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise refused(f"{folder / 'metadata.json'}: expected a vault's metadata, found {error}") from error
    if not fits:
        raise refused(
            f"{folder / 'metadata.json'}: expected a vault 1.x with {', '.join(_NEEDED)}, found others"
        )
    return metadata


def _leaf(folder: Path, name: str, length: int, stored: int, batch: int | None) -> np.ndarray:
    leaf = _open(folder, f"{name}.")
    dtype = np.dtype(leaf.dtype.numpy_dtype)
    files.numeric(name, dtype)
    if leaf.rank < 3 or not 0 < length <= leaf.shape[1]:
        raise refused(f"{name}: expected [B, T, N, ...] of {length} steps or more, found {leaf.shape}")
    if batch is not None and not 0 <= batch < leaf.shape[0]:
        raise UserError(f"expected batch to be 0 to {leaf.shape[0] - 1}, found {batch}")
    chosen = leaf if batch is None else leaf[batch : batch + 1]
    files.affordable(name, (chosen.shape[0], length, *chosen.shape[2:]), dtype.itemsize, stored)
    return np.asarray(chosen[:, :length].read().result())
