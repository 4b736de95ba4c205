"""Episodes of Minari's HDF5, read without trusting the file: no links out of it, no object, no bomb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5o
from numpy.typing import NDArray

from dom2data.convert.ingest import refused
from dom2data.errors import UserError

FILE = "main_data.hdf5"
_EXPANSION = 1100  # deflate makes 1,032 bytes of one at most
_ALLOWED = {"observations", "actions", "rewards", "terminations", "truncations", "infos"}


def episodes(data: Path, count: int) -> Iterator[dict[str, Any]]:
    """Episodes 0 to ``count`` - 1, with their attributes.

    Raises UserError (code 3) when the file is not HDF5, an episode is missing, or it holds what this project
    does not read: links to elsewhere, objects, or more than the file's size can make.
    """
    try:
        with h5py.File(data / FILE, "r") as file:
            budget = [_EXPANSION * (data / FILE).stat().st_size]
            if len(file) != count:
                raise refused(f"{data / FILE}: expected {count} episodes, found {len(file)}")
            for i in range(count):
                group = _child(file.id, f"episode_{i}", budget)
                if not isinstance(group, dict):
                    raise refused(f"{data / FILE}: episode {i}: expected a group, found an array")
                if missing := (_ALLOWED - {"infos"}) - set(group):
                    raise refused(f"{data / FILE}: episode {i}: expected {min(missing)}, found none")
                attributes = _attributes(file[f"episode_{i}"])
                yield {"infos": None} | group | {"attributes": attributes}
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise refused(f"{data / FILE}: expected Minari's HDF5, found: {error}") from error


def _child(parent: Any, name: str, budget: list[int]) -> Any:
    """A group as a dict, or an array, whole."""
    link = parent.links.get_info(name.encode())
    if link.type != h5l.TYPE_HARD:
        raise refused(f"expected data in the file, found {name!r}, a link to elsewhere")
    found = h5o.open(parent, name.encode())
    if isinstance(found, h5d.DatasetID):
        return _array(found, name, budget)
    if not isinstance(found, h5py.h5g.GroupID):
        raise refused(f"expected groups and arrays, found {name!r}, of another kind")
    return {child.decode(): _child(found, child.decode(), budget) for child in found}


def _array(found: Any, name: str, budget: list[int]) -> NDArray[Any]:
    how = found.get_create_plist()
    if how.get_layout() == h5d.VIRTUAL or how.get_external_count():
        raise refused(f"expected data in the file, found {name!r}, stored elsewhere")
    dtype, shape = found.dtype, found.shape
    if dtype.kind not in "fiub":
        raise refused(f"expected numbers, found {name!r} of {dtype}")
    budget[0] -= dtype.itemsize * int(np.prod(shape, dtype=object))
    if budget[0] < 0:
        raise refused(f"expected at most what the file can hold, found {name!r} with the shape {shape}")
    values = np.empty(shape, dtype)
    found.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _attributes(group: h5py.Group) -> dict[str, Any]:
    """The numbers among an episode's attributes that are read back."""
    return {name: group.attrs[name] for name in ("source", "parent_episode") if name in group.attrs}
