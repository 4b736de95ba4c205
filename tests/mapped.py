"""What test_executors maps: a module's functions, known to every worker by name.

A module of their own, because a worker imports all of it: beside the tests it would be pytest and Ray, too.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from dom2data.errors import UserError


def double(job: int) -> int:
    return 2 * job


def refuses(job: int) -> int:
    if job == 3:
        raise UserError("expected two, found three; take two", 3)
    return job


def breaks(job: int) -> int:
    raise ZeroDivisionError(job)


def dies_once(folder: Path, job: int) -> int:
    flag = folder / f"{job}"
    if job % 3 == 0 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def dies(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def slow_block(mark: Path, done: Any, job: Any) -> Any:
    """A block of a generation that leaves its process's number, so that a test knows whom to kill."""
    (mark / f"{job.block}-{os.getpid()}").touch()
    time.sleep(0.3)
    return done(job)
