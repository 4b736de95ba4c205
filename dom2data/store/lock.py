"""One writer per dataset id.

The lock is the operating system's, on an open file, so it goes with the process that held it, however that
ended: there is no stale lock to clear. Who holds it is noted beside it, for the message alone; nobody relies
on that note. (On a filesystem without such locks, filelock falls back to a file that names its owner.)
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dom2data.errors import FAILED, UserError


@contextmanager
def only_writer(dataset_id: str, base: Path) -> Iterator[None]:
    """Hold the lock of an id under a root.

    Raises UserError (code 1) when another process holds it, saying which, or the root cannot be written.
    """
    from filelock import FileLock, Timeout

    file = base / ".dom2data" / "locks" / (dataset_id.replace("/", "--") + ".lock")
    note = file.with_suffix(".json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"expected to be the only writer of {dataset_id}, found another process{_owner(note)} holding "
            f"{file}; wait for it, or choose another id with --out",
            FAILED,
        ) from error
    except OSError as error:
        message = f"expected a writable root {base}, found: {error.strerror}; see --root"
        raise UserError(message, FAILED) from error
    try:
        with contextlib.suppress(OSError):  # a full disk is the writer's to report
            since = datetime.now(UTC).isoformat(timespec="seconds")
            note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _owner(note: Path) -> str:
    try:
        owner = json.loads(note.read_text())
        return f" (pid {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # it is just about to write the note, or has just let go
