"""kill -9 at any moment: nothing half-made is ever a dataset, and a rerun ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import heeds_interrupts
from commands import dom2data
from small_datasets import stored

from dom2data import catalog
from dom2data.errors import UserError
from dom2data.store import stage as stages
from dom2data.subsample import subsample
from dom2data.verify import files, verify

WORDS = ["generate", "--env", "tag", "--quality", "random"]
WORDS += ["--steps", "500000"]  # 8 blocks: a while to hit
GENERATE = [sys.executable, "-c", "from dom2_cli.data import main; main()", *WORDS]
NAME = "dom2/tag-random-v0"


def generate(root: Path, *more: str) -> str:
    """The hash of what the same command makes in this process, which nobody disturbs."""
    run = dom2data(*WORDS, "--root", root, "--json", *more)
    assert run.exit_code == 0, run.output
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


def workers_of(process: subprocess.Popen[Any]) -> list[int]:
    """The processes that it has started and that live."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def wait_for_the_end(workers: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not all(map(gone, workers)):
        assert time.monotonic() < deadline, "workers live on"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Not there, or a zombie that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


PROCESSES = ("--executor", "processes", "--workers", "2")


@pytest.mark.parametrize("how", [("--workers", "1"), PROCESSES], ids=["alone", "processes"])
def test_killed_in_mid_generate(tmp_path: Path, undisturbed: str, how: tuple[str, ...]) -> None:
    root = tmp_path / "root"
    process = subprocess.Popen([*GENERATE, "--root", root, *how], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    wait_for_blocks(process, root, 1)
    assert catalog.catalog(root) == ([], [])
    workers = workers_of(process)
    assert len(workers) >= (2 if how == PROCESSES else 0)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must not outlive it
    process.wait()
    wait_for_the_end(workers)
    assert catalog.catalog(root) == ([], [])
    assert not (root / NAME).exists()

    assert generate(root, *how) == undisturbed
    (summary,), refused = catalog.catalog(root)
    assert (summary["hash"], refused) == (undisturbed, [])
    assert verify(catalog.newest(root))


def test_interrupted_by_the_keyboard(tmp_path: Path, undisturbed: str) -> None:
    """Ctrl-C ends the workers, too: exit code 130, one line, and the run continues."""
    process = subprocess.Popen([*GENERATE, "--root", tmp_path, *PROCESSES], start_new_session=True,
                               preexec_fn=heeds_interrupts,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_for_blocks(process, tmp_path, 1)  # type: ignore[arg-type]
    workers = workers_of(process)
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, progress = process.communicate(timeout=60)
    wait_for_the_end(workers)
    assert process.returncode == 130
    assert "Traceback" not in progress
    assert progress.splitlines()[-1].endswith("every finished block is kept, the same command continues")
    assert catalog.catalog(tmp_path) == ([], [])
    assert generate(tmp_path) == undisturbed


def test_two_at_once(tmp_path: Path, undisturbed: str) -> None:
    """The second stops at once and says who is at work; the first ends as if it had been alone."""
    first = subprocess.Popen([*GENERATE, "--root", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_blocks(first, tmp_path, 1)  # type: ignore[arg-type]
    first.send_signal(signal.SIGSTOP)  # it must not be over before the second has started
    second = dom2data(*WORDS, "--root", tmp_path)
    first.send_signal(signal.SIGCONT)
    assert second.exit_code == 1
    line = second.stderr.splitlines()[-1]
    assert line.startswith(
        "error: expected to be the only writer of dom2/tag-random-v0, found another process"
    )
    assert f"(pid {first.pid} on {socket.gethostname()}, since " in line
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert catalog.newest(tmp_path).hash == undisturbed


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    """No stale lock: the system's goes with the process, and the note of its owner decides nothing."""
    code = f"""
import time
from pathlib import Path
from dom2data.store.stage import open_stage
with open_stage("dom2/small-v0", Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"\(pid {holder.pid} on .*, since 20.*\) holding"):
        stored(tmp_path, [4, 4])
    holder.kill()
    holder.wait()
    note = tmp_path / ".dom2data" / "locks" / "dom2--small-v0.json"
    assert json.loads(note.read_text())["pid"] == holder.pid
    assert verify(stored(tmp_path, [4, 4]))
    assert not note.exists()


def test_killed_between_manifest_and_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second run finds in the stage does not get into the dataset, nor into its size."""
    (tmp_path / "there").mkdir()
    undisturbed, write = stored(tmp_path / "there", [4, 4]), stages.manifests.write

    def killed(data: Path, manifest: dict[str, object]) -> None:
        write(data, manifest)
        (data / "actions" / "c" / "0.1234.partial").write_bytes(b"half a chunk")
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.manifests, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, [4, 4])
    monkeypatch.undo()
    again = stored(tmp_path, [4, 4])
    assert (again.hash, again.manifest["size_bytes"]) == (
        undisturbed.hash,
        undisturbed.manifest["size_bytes"],
    )
    assert files(tmp_path / "dom2" / "small-v0" / "data", again.manifest) is None
    assert not list(tmp_path.rglob("*.partial"))


def test_killed_while_discarding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of which only a part was removed is not continued."""
    begun = stages.Stage("dom2/small-v0", tmp_path)
    with stages.open_stage("dom2/small-v0", tmp_path) as stage:
        stage.begin({"a": 1}, lambda data: (data / "there").write_text("x") and None)
        monkeypatch.setattr(stages.shutil, "rmtree", lambda *_, **__: None)
        stage.discard()
    monkeypatch.undo()
    with stages.open_stage("dom2/small-v0", tmp_path) as stage:
        assert stage.begin({"a": 1}, lambda data: None) == {}
        assert not (begun.data / "there").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def one_line(*words: str) -> str:
    run = dom2data(*words)
    assert (run.exit_code, run.stdout) == (1, ""), run.output
    (line,) = [text for text in run.stderr.splitlines() if text.startswith("error")]
    return line


def test_a_full_disk_and_a_read_only_one(small_disk: Path, tmp_path: Path) -> None:
    tag = ["generate", "--env", "tag", "--quality", "random", "--root", str(small_disk), "--steps"]
    assert "bytes free under" in one_line(*tag, "250000")  # seen beforehand
    found = stored(tmp_path, [4] * 200)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free))
    usage = shutil.disk_usage(small_disk)
    with pytest.MonkeyPatch.context() as patch:  # as if it had filled up since
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
        with pytest.raises(UserError, match="found the disk full; nothing was committed") as error:
            subsample(found, 1.0, out="copy", root=small_disk)
    assert error.value.code == 1
    assert catalog.catalog(small_disk) == ([], [])
    filler.unlink()
    expected = subsample(found, 1.0, out="copy", root=tmp_path).hash
    assert subsample(found, 1.0, out="copy", root=small_disk).hash == expected

    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "Read-only file system" in one_line(*tag, "250")
    assert [entry["id"] for entry in catalog.catalog(small_disk)[0]] == ["dom2/copy-v0"]


@pytest.mark.slow
def test_kill_nine_at_random_moments() -> None:
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_nine.py"), "--kills", "50"], check=False
    )
    assert run.returncode == 0
