"""Fast reading of uncompressed arrays, whose chunks are plain values and a checksum, directly into place.

Zarr reads such a chunk into a buffer, checks it, and then copies it. For a million steps this takes several
times as long as NumPy needs for the same bytes. Any other encoding is left to Zarr.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dom2data.store.layout import ArrayLayout

PIECE = 1 << 20
"""bytes to read at a time, so that they are checksummed while still in the CPU cache"""
CHECKSUM = 4
"""bytes of the crc32c at the end of a chunk"""


def is_raw(folder: Path, array: ArrayLayout) -> bool:
    """Whether an array's metadata describes this encoding and this layout."""
    try:
        found = json.loads((folder / "zarr.json").read_bytes())
        codecs = [codec["name"] for codec in found["codecs"]]
        endian = found["codecs"][0].get("configuration", {}).get("endian", "little")
        grid, keys = found["chunk_grid"]["configuration"]["chunk_shape"], found["chunk_key_encoding"]
        says = (found["zarr_format"], found["data_type"], found["shape"], grid, codecs, endian, keys["name"])
        separator = keys.get("configuration", {}).get("separator", "/")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    expected = (3, array.dtype, list(array.shape), list(array.chunk_shape), ["bytes", "crc32c"], "little")
    return says == (*expected, "default") and separator == "/" and not found.get("storage_transformers")


def read(folder: Path, array: ArrayLayout) -> NDArray[Any] | None:
    """Read the whole array; None if a chunk is lost or damaged (``zarr.read_array`` finds out which)."""
    values: NDArray[Any] = np.empty(array.shape, np.dtype(array.dtype).newbyteorder("<"))
    intact = all(_fill(folder, array, chunk, values[array.rows(chunk)]) for chunk in range(array.n_chunks))
    return values if intact else None


def read_chunk(folder: Path, array: ArrayLayout, chunk: int) -> NDArray[Any] | None:
    """Read the rows of one chunk; None if it is lost or damaged."""
    rows = array.rows(chunk)
    shape = (rows.stop - rows.start, *array.shape[1:])
    values: NDArray[Any] = np.empty(shape, np.dtype(array.dtype).newbyteorder("<"))
    return values if _fill(folder, array, chunk, values) else None


def holds(folder: Path, array: ArrayLayout, chunk: int, values: NDArray[Any]) -> bool:
    """Whether a chunk's file is intact and holds exactly these values, bit for bit."""
    found = read_chunk(folder, array, chunk)
    if found is None or found.nbytes != values.nbytes:
        return False
    there, here = (rows.reshape(-1).view(np.uint8) for rows in (found, values))
    cuts = [slice(start, start + PIECE) for start in range(0, len(here), PIECE)]
    return all(np.array_equal(there[cut], here[cut]) for cut in cuts)


def _fill(folder: Path, array: ArrayLayout, chunk: int, values: NDArray[Any]) -> bool:
    """Fill a chunk's rows; return whether its file exists, is complete, and has the right checksum."""
    rows = values.reshape(-1).view(np.uint8)
    padding = array.chunk_nbytes - rows.nbytes
    checksum = 0
    try:
        with (folder / array.chunk_key(chunk)).open("rb", 0) as file:
            for start in range(0, rows.nbytes, PIECE):
                piece = rows[start : start + PIECE]
                if file.readinto(piece.data) != piece.nbytes:
                    return False
                checksum = google_crc32c.extend(checksum, piece)
            rest = file.read(padding + CHECKSUM + 1)
    except OSError:
        return False
    checksum = google_crc32c.extend(checksum, rest[:padding])
    return len(rest) == padding + CHECKSUM and checksum == int.from_bytes(rest[padding:], "little")
