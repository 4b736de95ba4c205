"""The one exception for foreseeable problems; the commands print it as one line and exit with its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAILED, USAGE, CHECK_FAILED, INTERRUPTED = 1, 2, 3, 130


class UserError(Exception):
    """``expected ..., found ...; what to do``, and the exit code: 1 failed, 2 usage, 3 a check failed."""

    def __init__(self, message: str, code: int = USAGE):
        super().__init__(message, code)  # both in args, so that it survives the trip out of a worker process
        self.message, self.code = message, code

    def __str__(self) -> str:
        return self.message


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names no file, as of a write to a full disk, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
