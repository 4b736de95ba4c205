"""Write foreign files atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dom2data.errors import FAILED, UserError
from dom2data.new_file import sync
from dom2data.store.lock import held


@contextmanager
def staged(path: Path, force: bool) -> Iterator[Path]:
    """Yield ``.<name>.partial`` beside ``path``, for writing a file or folder; then rename it to ``path``.

    The dot hides it from Minari, whose listing would fail on a name without a version.

    Raises UserError: code 2 when ``path`` exists (without ``force``, or if it is of another kind), 1 when it
    cannot be written, or another process is writing it.
    """
    _require_new(path, force)
    partial = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(path):
            try:
                _remove(partial)
                yield partial
                _flush(partial)
                _require_new(path, force)  # again: other commands use other locks
                _require_alike(path, partial)
                _remove(replaced)
                if path.exists():
                    os.replace(path, replaced)
                os.replace(partial, path)
                sync(path.parent)
            finally:
                if replaced.exists() and not path.exists():
                    os.replace(replaced, path)
                _remove(partial)
                _remove(replaced)
    except OSError as error:
        raise UserError(
            f"expected to write {path}, found: {error.strerror or error}; see --out", FAILED
        ) from error


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold a lock, which ends with its process. Raises UserError (code 1) if another is writing ``path``."""
    lock = path.with_name(f".{path.name}.lock")
    otherwise = f"expected to be the only writer of {path}, found another process; wait for it, or see --out"
    with held(lock, otherwise):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _require_new(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise UserError(
            f"expected nothing at {path}, found something; --force replaces it, --out names another"
        )


def _require_alike(old: Path, new: Path) -> None:
    """Raises UserError if replacing ``old`` would remove something that such a conversion has not written."""
    if not old.is_dir() or old.is_symlink():
        return
    files = {path.name for path in new.iterdir()} if new.is_dir() else set()
    others = sorted({path.name for path in old.iterdir()} - files)
    if others or not new.is_dir():
        raise UserError(
            f"expected to replace an earlier result, found {others[0] if others else 'a folder'} in {old}; "
            "move it away or choose another --out"
        )


def _flush(partial: Path) -> None:
    for file in [partial, *partial.rglob("*")] if partial.is_dir() else [partial]:
        sync(file)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
