"""safetensors: the arrays of the store as PyTorch tensors, without pickle.

Layout: the arrays as docs/format.md names them, one tensor each, and in the file's metadata ``dom2``: a JSON
note that describes them (the format: https://github.com/huggingface/safetensors). Load it with
``safetensors.torch.load_file``. Files without the note are read, too. Returns are recomputed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dom2data.convert import described, files, whole
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset
from dom2data.errors import FAILED, UserError


def write(dataset: Dataset, path: Path, *, force: bool = False) -> Path:
    """Write every array and the note; return ``path``.

    Raises UserError like ``staged``, and when the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with staged(path, force) as partial:
        arrays = {name: np.ascontiguousarray(array) for name, array in dataset.arrays().items()}
        try:
            save_file(arrays, partial, metadata={described.NOTE: described.note(dataset)})
        except SafetensorError as error:  # usually a full disk
            raise UserError(f"{path}: expected to write it, found: {error}", FAILED) from error
    return path


def read(path: Path, *, env: str | None = None, clip: bool = False) -> Imported:
    """Read a file. Raises UserError like ``whole.imported``."""
    from safetensors import SafetensorError, safe_open

    files.require(path, "file")
    try:
        # safe_open refuses a header whose sizes do not match the file, before it creates any tensor.
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            note = (file.metadata() or {}).get(described.NOTE)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise refused(f"{path.name}: expected a safetensors file of numbers, found {error}") from error
    return whole.imported("safetensors", path, arrays, note, env, clip)
