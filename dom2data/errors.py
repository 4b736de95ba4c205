"""The one exception for foreseeable problems; the commands print it as one line and exit with its code."""

from __future__ import annotations

import traceback
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


def told(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


USERS = ("dom2_user_", "dom2_env_")
"""What the names of modules begin with that are files of users' own."""


def users_line(error: BaseException, file: str | None = None) -> tuple[str, str] | None:
    """Where an error was in a user's own code, the file given or one of ``USERS``: ``mine.py, line 12`` and
    the name of the function. None for an error that did not come through any."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename == file or str(frame.f_globals.get("__name__")).startswith(USERS):
            found = f"{Path(code.co_filename).name}, line {line}", code.co_name
    return found


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names no file, as of a write to a full disk, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
