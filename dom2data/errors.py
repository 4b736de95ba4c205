"""``UserError``, for all foreseeable problems: commands print it as one line and exit with its code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAILED, USAGE, CHECK_FAILED, INTERRUPTED = 1, 2, 3, 130


class UserError(Exception):
    """``expected ..., found ...; what to do``, and the exit code: 1 failed, 2 usage, 3 a check failed."""

    def __init__(self, message: str, code: int = USAGE):
        super().__init__(message, code)  # both in args, so that it can be pickled out of a worker process
        self.message, self.code = message, code

    def __str__(self) -> str:
        return self.message


def told(error: BaseException) -> str:
    """Format an exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


USERS = ("dom2_user_", "dom2_env_")
"""Prefixes of the names of modules loaded from users' own files."""


def users_line(error: BaseException, file: str | None = None) -> tuple[str, str] | None:
    """Return the innermost line of user code (``file``, or a module of ``USERS``) that an error came through,
    as ``mine.py, line 12``, and its function; None if there is none."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename == file or str(frame.f_globals.get("__name__")).startswith(USERS):
            found = f"{Path(code.co_filename).name}, line {line}", code.co_name
    return found


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add this path to an OSError that names no file, such as one from a write to a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
