"""Read episodes of Minari's HDF5 without trusting the file; see ``files``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5s
from numpy.typing import NDArray

from dom2data.convert import files
from dom2data.convert.ingest import refused

FILE = "main_data.hdf5"


def episodes(
    data: Path,
    count: int,
    needed: Sequence[str],
    optional: Sequence[str],
    noted: Sequence[str],
    left: list[str],
) -> Iterator[dict[str, Any]]:
    """Yield for episodes 0 to ``count`` - 1 the arrays at the paths ``needed`` and, if they exist,
    ``optional``, and the attributes ``noted``. Add the first episode's other paths to ``left``.

    Raises UserError (code 3) when the file is not HDF5 or does not have these episodes, or when an array is
    missing, is not numeric, is stored elsewhere, or claims to be larger than the file can hold.
    """
    if not (data / FILE).is_file():
        raise refused(f"expected {data / FILE}, found none")
    with files.hdf5(data / FILE) as file:
        if len(file) != count:
            raise refused(f"{data / FILE}: expected {count} episodes, found {len(file)}")
        for i in range(count):
            name = f"episode_{i}"
            episode = _child(file.id, name, name)
            if not isinstance(episode, h5g.GroupID):
                raise refused(f"{name}: expected a group, found {'an array' if episode else 'none'}")
            found = {path: _array(episode, path, f"{name}/{path}") for path in (*needed, *optional)}
            if missing := [path for path in needed if found[path] is None]:
                raise refused(f"{name}: expected an array {missing[0]!r}, found none")
            left += _besides(episode, {*needed, *optional}) if i == 0 else []
            attributes = h5py.AttributeManager(h5py.Group(episode))
            yield found | {key: attributes[key] for key in noted if key in attributes}


def _besides(episode: h5g.GroupID, taken: set[str]) -> list[str]:
    """Return the paths in an episode, one group deep, that are not ``taken``; follow no links."""
    found = []
    for key in episode:
        child = h5o.open(episode, key) if episode.links.get_info(key).type == h5l.TYPE_HARD else None
        inside = [key + b"/" + name for name in child] if isinstance(child, h5g.GroupID) else [key]
        found += [path.decode(errors="replace") for path in inside]
    return sorted(set(found) - taken)


def _child(parent: Any, name: str, where: str) -> Any:
    """Return the object with this name in a group, or None."""
    if not isinstance(parent, h5g.GroupID) or name.encode() not in parent:
        return None
    if parent.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise refused(f"{where}: expected it in this file, found a link to elsewhere")
    return h5o.open(parent, name.encode())


def _array(episode: Any, path: str, where: str) -> NDArray[Any] | None:
    found = episode
    for name in path.split("/"):
        found = _child(found, name, where)
    if not isinstance(found, h5d.DatasetID):
        return None
    how, dtype, shape = found.get_create_plist(), found.dtype, found.shape
    if how.get_layout() == h5d.VIRTUAL or how.get_external_count():
        raise refused(f"{where}: expected its values in this file, found them in another")
    files.numeric(where, dtype)
    files.affordable(where, shape, dtype.itemsize, found.get_storage_size())
    values = np.zeros(shape, dtype)
    found.read(h5s.ALL, h5s.ALL, values)
    return values
