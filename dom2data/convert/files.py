"""Safe reading of untrusted files.

Nothing is unpickled, no link out of a file is followed, and no memory is allocated before checking that the
file can hold that much. Anything else raises UserError with code 3.
"""

from __future__ import annotations

import hashlib
import math
import os
import tokenize
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dom2data.convert.ingest import refused
from dom2data.errors import UserError
from dom2data.store import schema

if TYPE_CHECKING:
    import h5py


_LARGE = 60_000  # HDF5's older layouts do not support attributes of more than 64 kB
_BAD_HEADER = (
    ValueError,
    KeyError,
    SyntaxError,
    TypeError,
    MemoryError,
    RecursionError,
    OverflowError,
    tokenize.TokenError,
)


def require(path: Path, kind: str) -> Path:
    """Return ``path``. Raises UserError (code 2) unless it is a ``kind``: "file" or "folder"."""
    if not (path.is_file() if kind == "file" else path.is_dir()):
        found = "a folder" if path.is_dir() else "a file" if path.is_file() else "nothing"
        raise UserError(f"expected a {kind} at {path}, found {found}; see docs/formats.md for the layouts")
    return path


def sha256(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of files, by the name under which they are recorded."""
    found = {}
    for name, path in paths.items():
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def affordable(what: str, shape: tuple[int, ...], itemsize: int, stored: int) -> None:
    """Raises UserError (code 3) if ``stored`` bytes cannot hold an array, or the machine's memory cannot."""
    nbytes = math.prod(shape) * itemsize
    if any(n < 0 for n in shape) or nbytes > stored * schema.DEFLATE:
        raise refused(f"{what}: expected {shape} to be in the file, found {stored:,} bytes")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > memory:
        raise refused(f"{what}: expected at most {memory:,} bytes (this machine's memory), found {nbytes:,}")


def numeric(what: str, dtype: np.dtype[Any]) -> None:
    """Raises UserError (code 3) unless the dtype is a plain bool, integer or float."""
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise refused(f"{what}: expected numbers, found dtype {dtype}")


def optional(path: Path) -> bytes | None:
    """Return the contents of a file, or None if it does not exist."""
    return path.read_bytes() if path.is_file() else None


def npy(path: Path) -> NDArray[Any]:
    """Memory-map an array of numbers in a ``.npy`` file. Raises UserError (code 3)."""
    require(path, "file")
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(path.name, file)
        offset, size = file.tell(), path.stat().st_size
    if math.prod(shape) * dtype.itemsize != size - offset:
        raise refused(f"{path.name}: expected {shape} of {dtype}, found {size - offset:,} bytes")
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _npy_header(what: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        with warnings.catch_warnings(action="ignore"):  # about headers written by Python 2
            shape, fortran, dtype = read[version](file)
    except _BAD_HEADER as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refused(f"{what}: expected a NumPy array, found {reason}") from error
    numeric(what, dtype)
    if any(n < 1 for n in shape):
        raise refused(f"{what}: expected sizes of 1 or more, found {shape}")
    return shape, fortran, dtype


def npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of numbers in an ``.npz`` file, by name. Raises UserError (code 3)."""
    require(path, "file")
    try:
        with zipfile.ZipFile(path) as archive:
            return {_npz_name(entry): _npz_array(archive, entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise refused(f"{path.name}: expected a readable npz file, found {error}") from error
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]
        raise refused(f"{path.name}: expected a readable npz file, found {error}") from error


def _npz_name(entry: zipfile.ZipInfo) -> str:
    plain = PurePosixPath(entry.filename).name
    if plain != entry.filename or "\\" in plain or not plain.endswith(".npy"):
        raise refused(f"expected names such as actions.npy in the npz file, found {entry.filename!r}")
    return plain.removesuffix(".npy")


def _npz_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    affordable(entry.filename, (entry.file_size,), 1, entry.compress_size)
    with archive.open(entry) as file:
        shape, fortran, dtype = _npy_header(entry.filename, file)
        count = math.prod(shape) * dtype.itemsize
        if file.tell() + count != entry.file_size:
            raise refused(f"{entry.filename}: expected {shape} of {dtype}, found {entry.file_size:,} bytes")
        content = bytearray(file.read(count))
    if len(content) != count:
        raise refused(f"{entry.filename}: expected {count:,} bytes, found {len(content):,}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file, to be read through ``hdf5_array``. Raises UserError (code 3)."""
    import h5py

    require(path, "file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refused(f"{path.name}: expected a readable HDF5 file, found {reason}") from error


def write_hdf5(path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, str]) -> None:
    """Write a new HDF5 file of compressed arrays."""
    import h5py

    large = any(len(text) > _LARGE for text in attributes.values())
    with h5py.File(path, "w", libver="latest" if large else None) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1, shuffle=True)
        file.attrs.update(attributes)


def hdf5_names(group: h5py.Group) -> list[str]:
    """Return the names in a group. Raises UserError (code 3) for a link that leads elsewhere."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise refused(f"{group.name}: expected {name!r} to be here, found a {type(link).__name__}")
    return list(group)


def hdf5_group(group: h5py.Group, name: str) -> h5py.Group:
    """Return a group in a group. Raises UserError (code 3) when it does not exist."""
    import h5py

    if name not in hdf5_names(group) or not isinstance(group[name], h5py.Group):
        raise refused(f"expected a group {name!r}, found none")
    return group[name]


def hdf5_note(file: h5py.File, name: str) -> str | None:
    """Return a text attribute of the file, or None if it does not exist."""
    value = file.attrs.get(name)
    return value if isinstance(value, str) else None


def hdf5_array(group: h5py.Group, name: str) -> NDArray[Any]:
    """Read an array of numbers. Raises UserError (code 3) if there is none, or its bytes are elsewhere."""
    import h5py

    if name not in hdf5_names(group) or not isinstance(group[name], h5py.Dataset):
        raise refused(f"{Path(group.file.filename).name}: expected an array {name!r}, found none")
    found = group[name]
    what = f"array {name!r}"
    if found.external or found.is_virtual:
        raise refused(f"{what}: expected its values in this file, found them in another")
    numeric(what, found.dtype)
    if found.shape is None:
        raise refused(f"{what}: expected a shape, found none")
    affordable(what, found.shape, found.dtype.itemsize, found.id.get_storage_size())
    return np.asarray(found[()])
