"""Write weights and states so that a full disk raises an OSError that names the file.

If safetensors and torch write files themselves, they raise errors of their own, which mention neither the
disk nor the file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors. Raises OSError, with the file's name."""
    _write(path, save({name: value.detach().contiguous() for name, value in weights.items()}, metadata))


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write what ``torch.load(weights_only=True)`` reads. Raises OSError, with the file's name."""
    content = io.BytesIO()
    torch.save(state, content)
    _write(path, content.getbuffer())


def _write(path: Path, content: bytes | memoryview) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
