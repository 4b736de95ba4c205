"""Runs that go on after they have ended, or that cannot, and then are as they were."""

from __future__ import annotations

import json
import resource
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import dom2
from tiny import new_run

from dom2 import checkpoint, evaluate, fit, results, run, track
from dom2_cli import learn

torch.set_num_threads(1)
SIZE = resource.RLIMIT_FSIZE


@pytest.mark.parametrize("lacks", ["data", "checkpoint", "gpu"])
def test_what_cannot_go_on_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    begun, code = new_run(tmp_path / "run"), {"data": 2, "checkpoint": 3, "gpu": 2}[lacks]
    fit.fit(begun)
    evaluate.keep(begun.folder, evaluate.evaluate(begun, episodes=2))
    elsewhere = ["--root", tmp_path] if lacks == "data" else []
    if lacks == "checkpoint":
        (begun.folder / "checkpoint/000000004/state.pt").write_bytes(b"half")
    if lacks == "gpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        begun.amend(device="cuda")
    before = (begun.folder / "config.json").read_text()
    refused = dom2("fit", "--resume", begun.folder, "--updates", 8, *elsewhere)
    assert (refused.exit_code, refused.stderr.count("\n")) == (code, 1), refused.output
    assert ("; the run was begun on a GPU and goes on only on one;" in refused.stderr) == (lacks == "gpu")
    assert (begun.folder / "config.json").read_text() == before
    assert results.state(begun.folder) == "evaluated"


def test_how_a_run_goes_on_is_all_that_it_needs(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    assert learn.resuming(begun, Path("a b")) == f"dom2 fit --resume {begun.folder} --root 'a b'"
    begun.document["mismatch"] = [{"fact": "damping", "expected": 0.25, "found": 0.5}]
    assert learn.resuming(begun, None) == f"dom2 fit --resume {begun.folder} --allow-mismatch"


def test_wall_time_is_that_of_all_sessions(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", updates=2)
    fit.fit(begun)
    (line,) = track.read(begun.folder)
    line |= {"time/seconds": 3600.0, "time/updates_per_second": 2 / 3600}
    (begun.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    again = dom2("fit", "--resume", begun.folder, "--updates", 4)
    (row,) = [row for row in again.stdout.splitlines() if row.startswith("wall time")]
    assert " 60 min " in row, again.output


def test_curves_reach_as_far_as_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of TensorBoard, of a process that is killed right after it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer.record_writer import RecordWriter

    begun, seen, write = new_run(tmp_path / "run"), [], RecordWriter.write

    def slowly(self: RecordWriter, data: bytes) -> None:
        time.sleep(0.02)
        write(self, data)

    def look(update: int, values: object) -> None:
        if update == 4:  # just saved, and the files not yet closed
            events = EventAccumulator(str(begun.folder / "tensorboard")).Reload()
            seen.extend(each.step for each in events.Scalars("time/updates_per_second"))  # the last one

    monkeypatch.setattr(RecordWriter, "write", slowly)
    fit.fit(begun, look)
    assert seen == [2, 4]


def test_compare_says_how_a_run_comes_to_its_end(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    for words in ("fit --resume", "evaluate"):
        refused = dom2("compare", begun.folder)
        assert refused.stderr.endswith(f"; dom2 {words} {begun.folder}\n")
        fit.fit(begun)


def test_a_resumed_run_keeps_its_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, loaded, load = new_run(tmp_path / "run", updates=2), [], checkpoint.load_weights
    fit.fit(begun)
    begun.amend(updates=3)

    def watched(*given: Any) -> tuple[int, dict[str, torch.Tensor]]:
        found = load(*given)
        loaded.extend(map(weakref.ref, found[1].values()))
        return found

    monkeypatch.setattr(checkpoint, "load_weights", watched)
    alive: list[bool] = []
    fit.fit(begun, lambda update, values: alive.extend(each() is not None for each in loaded))
    assert alive
    assert not any(alive)


@pytest.mark.parametrize("file", ["metrics.jsonl", "weights.safetensors"])
def test_a_disk_that_stays_full_is_told_by_the_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Its status cannot be written either; what is half-written does not stay."""
    begun, save, before = new_run(tmp_path / "run"), checkpoint.save_weights, resource.getrlimit(SIZE)

    def fill(update: int) -> None:
        if update == 3:
            resource.setrlimit(SIZE, (0, before[1]))

    def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
        fill(checkpoint.updates(begun.folder) + 1)  # in the second checkpoint
        save(weights, path)

    if file == "weights.safetensors":
        monkeypatch.setattr(checkpoint, "save_weights", save_weights)
    try:
        with pytest.raises(OSError, match=f"File too large: '.*{file}'"):
            fit.fit(begun, lambda update, values: fill(update) if file == "metrics.jsonl" else None)
    finally:
        resource.setrlimit(SIZE, before)
    names = {path.name for path in begun.folder.rglob("*")}
    assert "000000002" in names
    assert not [name for name in names if name.endswith(".tmp") or name == ".partial"]
    assert results.state(begun.folder) == "killed"
    monkeypatch.undo()
    assert fit.fit(run.read(begun.folder)) == "complete"
