"""Write files atomically, and never overwrite one unasked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dom2data.errors import UserError, naming


def require(path: Path, force: bool) -> None:
    """Raises UserError (code 2) if the file exists (and not ``force``) or its folder does not."""
    if path.exists() and not force:
        raise UserError(f"expected a new file, found {path}; --force replaces it")
    if not path.absolute().parent.is_dir():
        raise UserError(f"expected a folder to write into, found none at {path.absolute().parent}")


@contextmanager
def replacing(path: Path, writer: str = "") -> Iterator[Path]:
    """Yield a hidden path beside ``path`` to write a file to, which then replaces ``path`` in one step.

    The hidden file is removed after an error, and overwritten after a kill. ``writer`` distinguishes
    processes that may write at the same time. An OSError names ``path``.
    """
    partial = path.with_name(f".{path.name}{writer}.partial")
    try:
        with naming(path):
            yield partial
            sync(partial)  # the rename may reach the disk before the file's contents
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
