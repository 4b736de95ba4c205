"""Files appear whole or not at all, and none in the way of another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dom2data.errors import UserError, naming


def require(path: Path, force: bool) -> None:
    """Raises UserError (code 2) when the file is there (and not ``force``) or its folder is not."""
    if path.exists() and not force:
        raise UserError(f"expected a new file, found {path}; --force replaces it")
    if not path.absolute().parent.is_dir():
        raise UserError(f"expected a folder to write into, found none at {path.absolute().parent}")


@contextmanager
def replacing(path: Path, writer: str = "") -> Iterator[Path]:
    """A hidden name beside ``path`` to write a file at, which takes the place of ``path`` in one step.

    What is written there is gone after an error, and overwritten after a kill. ``writer`` tells apart those
    who may write at the same time. An OSError names ``path``.
    """
    partial = path.with_name(f".{path.name}{writer}.partial")
    try:
        with naming(path):
            yield partial
            sync(partial)  # a rename may be on disk before what was renamed
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
