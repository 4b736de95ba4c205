"""kill -9 at any moment: nothing half-made is ever a dataset, and a rerun ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dom2data import catalog
from dom2data.verify import verify

COMMAND = [sys.executable, "-c", "from dom2_cli.data import main; main()"]
GENERATE = [*COMMAND, "generate", "--env", "tag", "--quality", "random", "--steps", "250000"]
NAME = "dom2/tag-random-v0"


def generate(root: Path, *more: str) -> str:
    run = subprocess.run(
        [*GENERATE, "--root", root, "--json", *more], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)["hash"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return generate(tmp_path_factory.mktemp("undisturbed"))


def wait_for_blocks(process: subprocess.Popen[bytes], root: Path, count: int) -> None:
    blocks = root / ".dom2data" / "stage" / NAME / "blocks"
    deadline = time.monotonic() + 120
    while len(list(blocks.glob("*.json"))) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_in_mid_generate(tmp_path: Path, undisturbed: str, workers: str) -> None:
    root = tmp_path / "root"
    process = subprocess.Popen([*GENERATE, "--root", root, "--workers", workers], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    wait_for_blocks(process, root, 1)
    assert catalog.catalog(root) == ([], [])
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must not outlive it
    process.wait()
    deadline = time.monotonic() + 60
    while alive(process.pid):
        assert time.monotonic() < deadline, "workers live on"
        time.sleep(0.05)
    assert catalog.catalog(root) == ([], [])
    assert not (root / NAME).exists()

    assert generate(root, "--workers", workers) == undisturbed
    (summary,), refused = catalog.catalog(root)
    assert (summary["hash"], refused) == (undisturbed, [])
    assert verify(catalog.newest(root))


def test_interrupted_by_the_keyboard(tmp_path: Path, undisturbed: str) -> None:
    """Ctrl-C reaches the whole group, workers included: exit code 130, one line, and the run continues."""
    process = subprocess.Popen([*GENERATE, "--root", tmp_path, "--workers", "2"], start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_for_blocks(process, tmp_path, 1)  # type: ignore[arg-type]
    os.killpg(process.pid, signal.SIGINT)
    _, progress = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in progress
    assert progress.splitlines()[-1].endswith("every finished block is kept, the same command continues")
    assert catalog.catalog(tmp_path) == ([], [])
    assert generate(tmp_path) == undisturbed
