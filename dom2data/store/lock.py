"""Locks, above all to allow only one writer per dataset id.

A lock is an operating system lock on an open file, so it ends with the process that holds it, however that
ends: there are no stale locks to clear. A note beside it names the holder, for the error message only;
nothing relies on it. (On a filesystem without such locks, filelock falls back to a file naming its owner.)
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from dom2data.errors import FAILED, UserError


@contextmanager
def held(file: Path, otherwise: str | Callable[[], str], timeout: float = 0.0) -> Iterator[None]:
    """Hold a lock. Raises UserError (code 1) with the message ``otherwise`` if another process holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(otherwise if isinstance(otherwise, str) else otherwise(), FAILED) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def only_writer(dataset_id: str, base: Path) -> Iterator[None]:
    """Hold the lock of an id under a root.

    Raises UserError (code 1) if another process holds it, naming that, or if the root is not writable.
    """
    file = base / ".dom2data" / "locks" / (dataset_id.replace("/", "--") + ".lock")
    note = file.with_suffix(".json")

    def otherwise() -> str:
        return (
            f"expected to be the only writer of {dataset_id}, found another process{_owner(note)} "
            f"holding {file}; wait for it, or choose another id with --out"
        )

    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(file, otherwise))
        except OSError as error:
            message = f"expected a writable root {base}, found: {error.strerror}; see --root"
            raise UserError(message, FAILED) from error
        try:
            with suppress(OSError):  # the writer itself reports a full disk
                since = datetime.now(UTC).isoformat(timespec="seconds")
                owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
                note.write_text(json.dumps(owner))
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)


def _owner(note: Path) -> str:
    try:
        owner = json.loads(note.read_text())
        return f" (pid {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the holder has not written the note yet, or has just released the lock
