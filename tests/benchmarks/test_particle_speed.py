"""Environment steps per second: the particle engine, mpe2's tag, and generation end to end.

A step is one step of one environment with all its agents. Timing decides no test.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from side_by_side import ROWS, mpe2_agent_by_agent, mpe2_parallel, particles

pytestmark = pytest.mark.benchmark

Record = Callable[[str, float, str], None]


def test_engine_against_mpe2(record: Record) -> None:
    mpe2 = max(mpe2_parallel("simple_tag"), mpe2_agent_by_agent())
    record("mpe2 simple_tag, one process, its quickest way", mpe2, "steps/s")
    for threads, prey_acts in ((1, False), (2, False), (1, True)):
        measured = particles("tag", threads, prey_acts)
        name = f"engine, {ROWS:,} environments, {threads} thread{'s' * (threads > 1)}"
        name += ", the frozen prey acting" if prey_acts else ", given actions"
        record(name, measured, "steps/s")
        record("… against mpe2", measured / mpe2, "times")


@pytest.mark.parametrize("workers", [1, 2])
def test_generate_end_to_end(record: Record, tmp_path: Path, workers: int) -> None:
    """The command as a user types it: start-up, policies, physics, hashing, writing and reading back."""
    steps = 1_000_000
    command = [sys.executable, "-c", "from dom2_cli.data import main; main()", "generate", "--env", "tag"]
    command += [
        "--quality",
        "medium",
        "--steps",
        str(steps),
        "--workers",
        str(workers),
        "--root",
        str(tmp_path),
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    record(
        f"generate, {workers} worker{'s' * (workers > 1)}, all included",
        steps / (time.perf_counter() - start),
        "steps/s",
    )
