"""Array storage as Zarr v3: one chunk per block, not compressed, with a crc32c checksum.

Compressing noisy float32 saves a fifth at best, and loading then takes ten times as long. Missing chunks are
detected explicitly, because Zarr reads them as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.store import manifest as manifests
from dom2data.store import raw
from dom2data.store.layout import ArrayLayout, chunk_file
from dom2data.store.manifest import digest, settle


def create(data: Path, layouts: Mapping[str, ArrayLayout]) -> None:
    """Create the group and its arrays with their final shapes, without chunks; replaces an existing group."""
    group = zarr.create_group(store=data, overwrite=True)
    for name, array in layouts.items():
        group.create_array(
            name,
            shape=array.shape,
            chunks=array.chunk_shape,
            dtype=array.dtype,
            compressors=[Crc32cCodec()],
            fill_value=0,
        )


def write_chunk(data: Path, name: str, array: ArrayLayout, chunk: int, values: NDArray[Any]) -> str:
    """Write one whole chunk, read it back, and return its leaf hash.

    Raises UserError (code 1) when what was read differs from what was written.
    """
    rows = array.rows(chunk)
    if values.shape != (rows.stop - rows.start, *array.shape[1:]) or values.dtype != array.dtype:
        raise ValueError(f"{name}: expected {array}, found a chunk of {values.dtype}{values.shape}")
    values = np.ascontiguousarray(values)
    # Write chunks of zeros, too, so that a missing chunk always means a lost one.
    zarr.open_array(data / name, mode="r+").with_config({"write_empty_chunks": True})[rows] = values
    settle(data / chunk_file(name, array, chunk))
    if not raw.holds(data / name, array, chunk, values):
        raise UserError(f"{data / name}: chunk {chunk} reads back differently; check the disk", FAILED)
    return digest(values.data)


def write_arrays(
    data: Path, layouts: Mapping[str, ArrayLayout], values: Mapping[str, NDArray[Any]]
) -> dict[str, list[str]]:
    """Write every chunk of the arrays in ``values``; return their leaves by name."""
    return {
        name: [write_chunk(data, name, array, c, values[name][array.rows(c)]) for c in range(array.n_chunks)]
        for name, array in layouts.items()
        if name in values
    }


def read_array(
    data: Path, name: str, array: ArrayLayout, leaves: Sequence[str] | None = None
) -> NDArray[Any]:
    """Read a whole array, and check the chunks against ``leaves`` if given.

    Raises UserError (code 3), naming array and chunk, for a chunk that is lost, damaged, or has another hash.
    """
    values = _read_array(data, name, array)
    if leaves is not None:
        for chunk, (leaf, found) in enumerate(zip(leaves, manifests.leaves(array, values), strict=True)):
            _require_leaf(data, name, chunk, leaf, found)
    return values


def _read_array(data: Path, name: str, array: ArrayLayout) -> NDArray[Any]:
    if raw.is_raw(data / name, array) and (values := raw.read(data / name, array)) is not None:
        return values
    source = _open(data, name, array)
    if source.nchunks_initialized == source.nchunks:
        try:
            return np.asarray(source[:])
        except (ValueError, RuntimeError, OSError):
            pass  # the code below finds out which chunk it was
    return np.concatenate([_read_chunk(source, data, name, array, c) for c in range(array.n_chunks)])


def read_chunk(data: Path, name: str, array: ArrayLayout, chunk: int, leaf: str | None) -> NDArray[Any]:
    """Read the rows of one chunk, and check them against the hash ``leaf`` if given.

    Raises UserError (code 3) like ``read_array``.
    """
    values = raw.read_chunk(data / name, array, chunk) if raw.is_raw(data / name, array) else None
    if values is None:
        values = _read_chunk(_open(data, name, array), data, name, array, chunk)
    if leaf is not None:
        _require_leaf(data, name, chunk, leaf, digest(np.ascontiguousarray(values).data))
    return values


def _require_leaf(data: Path, name: str, chunk: int, leaf: str, found: str) -> None:
    if found != leaf:
        raise _damaged(data, f"array {name!r}, chunk {chunk}", f"the hash {leaf[:16]}", found[:16])


def _open(data: Path, name: str, array: ArrayLayout) -> zarr.Array[Any]:
    try:
        source = zarr.open_array(data / name, mode="r", zarr_format=3)  # an older one may hold pickles
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(data, f"array {name!r}", "its zarr.json", "none that is readable") from error
    found = (str(source.dtype), source.shape, source.chunks)
    if found != (array.dtype, array.shape, array.chunk_shape):
        raise _damaged(data, f"array {name!r}", f"{array}", str(found))
    return source


def _read_chunk(
    source: zarr.Array[Any], data: Path, name: str, array: ArrayLayout, chunk: int
) -> NDArray[Any]:
    where = f"array {name!r}, chunk {chunk}"
    if not (data / chunk_file(name, array, chunk)).is_file():
        raise _damaged(data, where, "its file", "none")
    try:
        return np.asarray(source[array.rows(chunk)])
    except (ValueError, RuntimeError, OSError) as error:
        raise _damaged(
            data, where, "intact bytes", str(error).split(".")[0] or type(error).__name__
        ) from error


def _damaged(data: Path, where: str, expected: str, found: str) -> UserError:
    message = f"{data}: {where}: expected {expected}, found {found}; generate or fetch it again"
    return UserError(message, CHECK_FAILED)
