"""Foreign files appear whole or not at all."""

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
    """A new ``.<name>.partial`` beside ``path`` to write a file or folder at, renamed to ``path`` at the end.

    The dot hides it from Minari, whose listing would stop at a name without a version.

    Raises UserError: code 2 when something is there (and not ``force``, or not of the same kind), 1 when it
    cannot be written.
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
                _require_new(path, force)  # by now, other commands hold other locks
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
    """Raises UserError (code 1) when another process is writing ``path``; the lock goes with its process."""
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
    """Raises UserError where replacing ``old`` would remove what no conversion of this kind has written."""
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
