"""npz: the arrays of the store in one file that NumPy alone can read.

Layout: the arrays as docs/format.md names them (observations [S+Ep, N, O], actions [S, N, A], rewards [S,
N], offsets [Ep+1], terminated, truncated, source, returns [Ep], agent_returns [Ep, N]), compressed, and
``dom2``: a note that describes them, as the uint8 bytes of a JSON text. Files without the note are read,
too. Returns are recomputed. This is our own layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.convert import described, files, whole
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset


def write(dataset: Dataset, path: Path, *, force: bool = False) -> Path:
    """Write every array and the note; return ``path``. Raises UserError like ``staged``."""
    with staged(path, force) as partial, partial.open("wb") as file:
        arrays: dict[str, NDArray[Any]] = dataset.arrays()
        note = np.frombuffer(described.note(dataset).encode(), np.uint8)
        np.savez_compressed(file, **arrays | {described.NOTE: note})  # type: ignore[arg-type]
    return path


def read(path: Path, *, env: str | None = None, clip: bool = False) -> Imported:
    """Read a file. Raises UserError like ``whole.imported``."""
    arrays = files.npz(path)
    note = arrays.pop(described.NOTE, None)
    if note is not None and note.dtype != np.uint8:
        raise refused(f"expected {described.NOTE!r} as the bytes of a text, found {note.dtype}")
    text = None if note is None else note.tobytes()
    return whole.imported("npz", path, arrays, text, env, clip)
