"""The arrays themselves, as Zarr v3: one chunk per block, zstd-1 with bitshuffle, and crc32c.

crc32c is on every array because Blosc alone lets most bit flips through, and a missing chunk is looked for
because Zarr reads one as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from dom2data.errors import CHECK_FAILED, UserError
from dom2data.store.layout import ArrayLayout
from dom2data.store.manifest import digest


def create(data: Path, layouts: Mapping[str, ArrayLayout]) -> None:
    """Create the group and its arrays, at their final shapes, without a chunk."""
    group = zarr.create_group(store=data)
    for name, array in layouts.items():
        group.create_array(
            name,
            shape=array.shape,
            chunks=(array.chunk_rows, *array.shape[1:]),
            dtype=array.dtype,
            compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
            fill_value=0,
            config={"write_empty_chunks": True},  # so that a chunk that is absent is a chunk that was lost
        )


def write_chunk(data: Path, name: str, array: ArrayLayout, chunk: int, values: NDArray[Any]) -> str:
    """Write one whole chunk, read it back, and return its leaf hash.

    Raises UserError (code 1) when what was read differs from what was written.
    """
    rows = array.rows(chunk)
    if values.shape != (rows.stop - rows.start, *array.shape[1:]) or values.dtype != array.dtype:
        raise ValueError(f"{name}: expected {array}, found a chunk of {values.dtype}{values.shape}")
    values = np.ascontiguousarray(values)
    target = zarr.open_array(data / name, mode="r+")
    target[rows] = values
    if not np.array_equal(_read(data, name, rows).view(np.uint8), values.view(np.uint8)):
        raise UserError(f"{data / name}: chunk {chunk} reads back differently; check the disk", 1)
    return digest(values.data)


def write_array(data: Path, name: str, array: ArrayLayout, values: NDArray[Any]) -> list[str]:
    """Write all chunks of an array; returns its leaves."""
    return [write_chunk(data, name, array, c, values[array.rows(c)]) for c in range(array.n_chunks)]


def read_array(data: Path, name: str) -> NDArray[Any]:
    """A whole array. Raises UserError (code 3), naming array and chunk, for a lost or damaged chunk."""
    source = zarr.open_array(data / name, mode="r")
    if source.nchunks_initialized == source.nchunks:
        try:
            return _read(data, name, slice(None))
        except (ValueError, RuntimeError, OSError):
            pass  # the loop below finds out which chunk it was
    rows = source.chunks[0]
    parts = [_read_chunk(data, name, c, slice(c * rows, (c + 1) * rows)) for c in range(source.nchunks)]
    return np.concatenate(parts)


def leaves(data: Path, name: str, array: ArrayLayout) -> list[str]:
    """The leaf hashes of what is on disk. Raises UserError (code 3) like ``read_array``."""
    found = []
    for chunk in range(array.n_chunks):
        values = _read_chunk(data, name, chunk, array.rows(chunk))
        found.append(digest(np.ascontiguousarray(values).data))
    return found


def _read(data: Path, name: str, rows: slice) -> NDArray[Any]:
    return np.asarray(zarr.open_array(data / name, mode="r")[rows])


def _read_chunk(data: Path, name: str, chunk: int, rows: slice) -> NDArray[Any]:
    source = zarr.open_array(data / name, mode="r")
    file = data / name / "c" / "/".join([str(chunk)] + ["0"] * (source.ndim - 1))
    where = f"{data}: array {name!r}, chunk {chunk}"
    if not file.is_file():
        raise UserError(f"{where}: expected its file, found none; generate or fetch it again", CHECK_FAILED)
    try:
        return np.asarray(source[rows])
    except (ValueError, RuntimeError, OSError) as error:
        found = f"damage ({str(error).split('.')[0] or type(error).__name__})"
        message = f"{where}: expected intact bytes, found {found}; generate or fetch it again"
        raise UserError(message, CHECK_FAILED) from error
