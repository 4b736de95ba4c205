"""Sweeps: which runs a file asks for, that each is made once whatever happens, and searches that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import heeds_interrupts
from click.testing import Result
from commands import dom2
from tiny import released, tag_random

from dom2 import checkpoint, evaluate, fit, jobs, pace, progress, sweep, track
from dom2.search import Search
from dom2.sweep import Sweep
from dom2data import ids
from dom2data.errors import UserError

HEAD = 'datasets = ["tiny-random"]\nalgorithms = ["bc", "ma-cql"]\nupdates = 6\nepisodes = 3\n'
SMALL = "[settings]\nbatch_size = 16\nactor_widths = [8, 8]\n[settings.ma-cql]\ncritic_widths = [8, 8]\n"
GRID = HEAD + SMALL + "[grid]\nlr = [0.01, 0.001]\n"
ONE = HEAD.replace(', "ma-cql"', "") + SMALL.split("[settings.ma-cql]")[0]
RANGES = (
    ONE + "[search]\nlr = {low = 1e-4, high = 1e-1, log = true}\nactor_widths = {choices = [[8], [4, 4]]}\n"
)
RANGES = RANGES.replace("actor_widths = [8, 8]\n", "")


@pytest.fixture(autouse=True)
def _data() -> None:
    tag_random()


def file(folder: Path, text: str) -> Path:
    path = folder / "asked.toml"
    path.write_text(text)
    return path


def asked(folder: Path, text: str) -> Sweep:
    return Sweep(sweep.read(file(folder, text)), folder / "runs", ids.root())


def call(folder: Path, *more: str) -> Result:
    words = ["sweep", str(folder / "asked.toml"), "--out", str(folder / "runs"), "--jobs", "1", *more]
    return dom2(*words)


def program(folder: Path, out: str, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", "from dom2_cli.learn import main; main()", "sweep"]
    words += [str(folder / "asked.toml"), "--out", str(folder / out), *(more or ("--jobs", "1"))]
    environment = os.environ | {"MINARI_DATASETS_PATH": str(ids.root())}
    return subprocess.Popen(
        words,
        env=environment,
        preexec_fn=heeds_interrupts,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(reached: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not reached() and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_grid_is_every_combination_on_every_dataset(tmp_path: Path) -> None:
    text = GRID.replace("[0.01, 0.001]", "[1, 1.0, 0.5]") + "[grid.ma-cql]\nalpha = [0, 2.5]\n"
    found = {
        run.job.folder.relative_to(tmp_path / "runs").as_posix(): run for run in asked(tmp_path, text).runs()
    }
    assert list(found) == [
        "tiny-random/bc,lr=1.0",
        "tiny-random/bc,lr=0.5",
        "tiny-random/ma-cql,lr=1.0,alpha=0.0",
        "tiny-random/ma-cql,lr=1.0,alpha=2.5",
        "tiny-random/ma-cql,lr=0.5,alpha=0.0",
        "tiny-random/ma-cql,lr=0.5,alpha=2.5",
    ]
    run = found["tiny-random/ma-cql,lr=0.5,alpha=2.5"]
    assert run.varied == {"lr": 0.5, "alpha": 2.5}
    assert (run.job.config["alpha"], run.job.config["critic_widths"]) == (2.5, (8, 8))
    assert (run.job.settings["batch_size"], run.job.settings["updates"]) == (16, 6)
    assert run.job.env == "tag"


def test_without_updates_runs_are_as_long_as_those_of_the_results(tmp_path: Path) -> None:
    without = asked(tmp_path, GRID.replace("updates = 6\n", "")).runs()
    assert {run.job.settings["updates"] for run in without} == {2500}


def test_names_are_safe_for_filesystems() -> None:
    assert str(jobs.place("dom2/a-v0", "my file.py:Mine", [("thresholds", (0.5, 0.9))])) == (
        "dom2_a-v0/my_file.py_Mine,thresholds=0.5_0.9"
    )
    one, two = (jobs.place("a", "bc", [("name", 300 * "x" + end)]).name for end in "12")
    assert one != two
    assert len(one) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets = [", "expected TOML"),
        ('algorithms = ["bc"]', "datasets: expected at least one, found none"),
        (HEAD + "updtes = 3", "'updtes'; did you mean updates"),
        (HEAD.replace("= 3", '= "3"'), "episodes: expected integer, found '3'"),
        (HEAD.replace("= 3", "= 0"), "episodes: expected 1 or more, found 0"),
        (HEAD.replace('"bc"', '"bcc"'), "expected an algorithm"),
        (HEAD.replace("tiny-random", "tinny-random"), "found no dom2/tinny-random; did you mean"),
        (HEAD + 'shifts = ["sped"]', r"shifts: expected of tag \(none, .*\), found 'sped'"),
        (HEAD + 'preset = "huge"', "expected a preset"),
        (HEAD + "[settings]\nseeds = 3", r"\[settings\] seeds: expected above the tables"),
        (HEAD + "[settings]\nbatchsize = 3", r"\[settings\] batchsize: .*did you mean batch_size"),
        (HEAD + "[grid]\nlr = 0.1", r"\[grid\] lr: expected a list of values, found 0.1"),
        (HEAD + '[grid]\nlr = ["x"]', "lr: expected number, found 'x'"),
        (HEAD + "[grid]\nalpha = [1.0]", r"alpha: expected a setting of every algorithm, .*\[grid.ma-cql\]"),
        (HEAD + "[grid.dom2]\neta = [1.0]", r"\[grid\] dom2: expected a setting of bc"),
        (HEAD + "[grid]\nbc = 3", r"\[grid.bc\]: expected a table, found 3"),
        (GRID + "batch_size = [1]", "batch_size: expected in one table, found in "),
        (GRID + "[search]\nlr = {low = 1, high = 2}", r"expected \[grid\] or \[search\], found both"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked(tmp_path, text).runs()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected ranges for bc in a table"),
        ("[search]\nlr = 3", r"\[search\] lr: expected {low, high} or {choices}, found 3"),
        ("[search]\nlr = {lo = 1}", r"\[search\] lr: .*'lo'; did you mean low"),
        ("[search]\nlr = {low = 1}", r"\[search\] lr: expected low and high"),
        ("[search]\nlr = {low = 2.0, high = 1.0}", r"\[search\] lr: "),
        ("[search]\nactor_widths = {low = 1, high = 2}", "actor_widths: expected choices for integer,"),
        ("[search]\nseed = {low = 1.5, high = 2}", "seed: expected whole numbers"),
        ('[search]\nlr = {choices = [0.1, "x"]}', "lr: expected number, found 'x'"),
    ],
)
def test_ranges_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Search(asked(tmp_path, HEAD.replace(', "ma-cql"', "") + text), 3, "score", 0)


def test_from_a_file_to_a_table_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, GRID)
    planned = call(tmp_path, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "tiny-random/bc,lr=0.01" in planned.stdout
    assert not (tmp_path / "runs").exists()
    first = call(tmp_path, "--json")
    assert first.exit_code == 0, first.output
    document = json.loads(first.stdout)
    assert document == json.loads((tmp_path / "runs/sweep.json").read_text())
    rows = document["runs"]
    assert [row["status"] for row in rows] == ["done"] * 4
    scores = [row["evaluations"]["none"]["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {(row["algorithm"], row["settings"]["lr"]) for row in rows} == {
        (name, lr) for name in ("bc", "ma-cql") for lr in (0.01, 0.001)
    }
    assert (tmp_path / "runs/spec.toml").read_text() == (tmp_path / "asked.toml").read_text()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("evaluation.json")}
    again = call(tmp_path)
    assert "4 runs: 4 done" in again.stderr
    assert again.stdout.count(" done ") == 4
    assert {path: path.stat().st_mtime_ns for path in written} == written
    more = call(tmp_path, "--metric", "return", "--json")
    assert [row["run"] for row in json.loads(more.stdout)["runs"]] == [row["run"] for row in rows]
    monkeypatch.setattr(sweep, "normalized", lambda env, values: None)  # as without published references
    unscored = call(tmp_path, "--json")
    assert [row["run"] for row in json.loads(unscored.stdout)["runs"]] == [row["run"] for row in rows]
    assert "sorted by return, best first" in unscored.stderr
    file(tmp_path, GRID.replace("0.001]", "0.001, 0.1]"))
    monkeypatch.setattr(pace, "measured", None)  # which the logs of the runs that are there make needless
    assert call(tmp_path, "--dry-run").exit_code == 0


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    file(tmp_path, HEAD + SMALL)
    assert call(tmp_path).exit_code == 0
    file(tmp_path, HEAD + SMALL + "lr = 0.5\n")  # of ma-cql
    refused = call(tmp_path)
    assert refused.exit_code == 1
    assert "[1/1] tiny-random/ma-cql failed: " in refused.stderr
    assert "lr: expected 0.5, found " in refused.stderr
    assert "failed (reasons above" in refused.stderr
    assert "tried again" not in refused.stderr
    assert not (tmp_path / "runs/tiny-random/ma-cql/error.txt").exists()


@pytest.mark.parametrize("times", [1, 2])
def test_what_fails_is_tried_again_and_every_error_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    whole, calls = evaluate.evaluate, iter(range(times))

    def broken(*given: Any, **named: Any) -> dict[str, Any]:
        for number in calls:
            raise RuntimeError(f"no memory, {number}")
        return whole(*given, **named)

    monkeypatch.setattr(evaluate, "evaluate", broken)
    file(tmp_path, ONE)
    result = call(tmp_path)
    assert result.exit_code == times - 1
    assert "failed, and will be tried again: RuntimeError: no memory, 0" in result.stderr
    errors = (tmp_path / "runs/tiny-random/bc/error.txt").read_text()
    assert [f"--- attempt {n} failed, 20" in errors for n in (1, 2, 3)] == [True, times == 2, False]
    assert "RuntimeError: no memory, 0" in errors
    (row,) = json.loads((tmp_path / "runs/sweep.json").read_text())["runs"]
    assert (row["status"], bool(row["error"])) == (("done", False) if times == 1 else ("failed", True))
    assert call(tmp_path).exit_code == 0


def test_two_commands_at_once_make_each_run_once(tmp_path: Path) -> None:
    """The second, in this process, comes upon the first at its first run."""
    file(tmp_path, GRID.replace("updates = 6", "updates = 60").replace("[0.01, 0.001]", "[0.1, 0.01, 0.001]"))
    first = program(tmp_path, "runs")
    until((tmp_path / "runs/tiny-random/bc,lr=0.1/config.json").exists, first)
    second = call(tmp_path)
    errors = first.communicate()[1]
    assert (first.returncode, second.exit_code) == (0, 0), (errors, second.output)
    folders = [path.parent for path in (tmp_path / "runs").rglob("config.json")]
    assert len(folders) == 6
    for folder in folders:
        assert len(list((folder / "tensorboard").iterdir())) == 1  # opened by one training
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["update"] for line in lines] == list(range(1, 61))
    rows = json.loads((tmp_path / "runs/sweep.json").read_text())["runs"]
    assert {row["status"] for row in rows} <= {"done", "elsewhere"}


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    from filelock import FileLock

    file(tmp_path, GRID)
    (tmp_path / "runs/tiny-random").mkdir(parents=True)
    with FileLock(tmp_path / "runs/tiny-random/.bc,lr=0.01.claim"):
        result = call(tmp_path, "--json")
    assert result.exit_code == 0
    assert "another process is doing 1 run;" in result.stderr
    words = {row["run"]: row["status"] for row in json.loads(result.stdout)["runs"]}
    assert words.pop("tiny-random/bc,lr=0.01") == "elsewhere"
    assert set(words.values()) == {"done"}


def test_interrupted_and_killed_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Interrupted in the first run, terminated and killed when that has gone on, two at once."""
    file(tmp_path, ONE.replace("updates = 6", "updates = 500") + "[grid]\nlr = [0.01, 0.001]\n")
    folder = tmp_path / "runs/tiny-random/bc,lr=0.01"
    for number, workers in ((signal.SIGINT, "1"), (signal.SIGTERM, "2"), (signal.SIGKILL, "2")):
        updates = checkpoint.updates(folder) if folder.exists() else 0
        stopped = program(tmp_path, "runs", "--jobs", workers)
        until(lambda: folder.exists() and checkpoint.updates(folder) > updates, stopped)  # noqa: B023
        stopped.send_signal(number)
        if number == signal.SIGTERM:
            time.sleep(0.05)
            stopped.send_signal(number)  # ``timeout`` sends two
        _, errors = stopped.communicate(timeout=120)
        assert stopped.returncode == (-number if number == signal.SIGKILL else 130), errors
        if number != signal.SIGKILL:
            assert (folder / "status").read_text() == "interrupted\n"
    released(tmp_path / "runs")
    assert call(tmp_path).exit_code == 0
    (tmp_path / "runs").rename(tmp_path / "parts")
    assert call(tmp_path).exit_code == 0
    files = list((tmp_path / "runs").rglob("weights.safetensors"))
    assert len(files) == 2
    for path in files:
        assert (tmp_path / "parts" / path.relative_to(tmp_path / "runs")).read_bytes() == path.read_bytes()


def test_a_search_goes_on_to_the_same_trials(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        file(tmp_path / name, RANGES)
    whole = call(tmp_path / "whole", "--search", "tpe", "--trials", "3", "--json")
    assert whole.exit_code == 0, whole.output
    first = call(tmp_path / "parts", "--search", "tpe", "--trials", "1")
    assert first.exit_code == 0, first.output
    # Killed after it has asked for the second trial: the trial is there, and nothing of its run.
    begun = Search(asked(tmp_path / "parts", RANGES), 3, "score", 0).take(1)
    assert [(trial.number, trial.state) for trial in begun] == [(1, "running")]
    rest = call(tmp_path / "parts", "--search", "tpe", "--trials", "3", "--json")
    assert rest.exit_code == 0, rest.output
    trials, expected = (json.loads(each.stdout)["trials"] for each in (rest, whole))
    assert trials == expected
    assert [trial["status"] for trial in trials] == ["complete"] * 3
    assert len({trial["settings"]["lr"] for trial in trials}) == 3
    values = [trial["value"] for trial in trials]
    assert values == sorted(values, reverse=True)
    other = call(tmp_path / "parts", "--search", "tpe", "--trials", "3", "--seed", "1")
    assert other.exit_code == 3
    assert "found another seed (1, was 0)" in other.stderr
    planned = call(tmp_path / "parts", "--search", "tpe", "--trials", "5", "--dry-run", "--json")
    assert len(json.loads(planned.stdout)["runs"]) == 3
    sampled = Search(asked(tmp_path / "parts", RANGES), 5, "score", 0).sample("bc")
    assert not any(run.job.folder.exists() for run in sampled)  # else what it takes seems to be done


def test_a_trial_that_fails_is_over_and_the_others_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate.evaluate

    def broken(run: Any, *given: Any, **named: Any) -> dict[str, Any]:
        if "trial=1" in run.folder.name:
            raise RuntimeError("no memory")
        return whole(run, *given, **named)

    monkeypatch.setattr(evaluate, "evaluate", broken)
    file(tmp_path, RANGES)
    result = call(tmp_path, "--search", "tpe", "--trials", "3", "--retries", "0", "--json")
    assert result.exit_code == 1
    words = {trial["trial"]: trial["status"] for trial in json.loads(result.stdout)["trials"]}
    assert words == {0: "complete", 1: "fail", 2: "complete"}


def test_search_and_its_ranges_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, RANGES)
    assert "expected --search tpe with a table [search]" in call(tmp_path).stderr
    assert "expected --search tpe, found 'random'" in call(tmp_path, "--search", "random").stderr
    assert "expected --metric score or return" in call(tmp_path, "--metric", "loss").stderr
    words = ["sweep", str(tmp_path / "asked.toml"), "--search", "tpe", "--executor", "ray", "--dry-run"]
    assert "expected --jobs with --search on Ray" in dom2(*words).stderr
    words = ["sweep", str(tmp_path / "asked.toml"), "--search", "tpe", "--executor", "local", "--dry-run"]
    assert "--jobs 1;" in dom2(*words).stdout
    monkeypatch.setitem(sys.modules, "optuna", None)
    missing = call(tmp_path, "--search", "tpe")
    assert (missing.exit_code, "pip install 'dom2[search]'" in missing.stderr) == (2, True)
    file(tmp_path, GRID)
    assert "found [grid]" in call(tmp_path, "--search", "tpe").stderr


def test_what_moves_is_read_from_the_folders(tmp_path: Path) -> None:
    file(tmp_path, ONE)
    job = asked(tmp_path, ONE).runs()[0].job
    assert progress.moving([job], 0.0) == []
    assert call(tmp_path).exit_code == 0
    assert progress.moving([job], 0.0) == []  # done
    metrics = job.folder / "metrics.jsonl"
    (job.folder / "status").write_text("running\n")
    metrics.write_text('{"update": 2, "time/updates_per_second": 4.0}\n{"update": 4, "ti')
    (found,) = progress.moving([job], 0.0)
    assert (found.done, found.wanted, found.rate, found.left, found.evaluating) == (2, 6, 4.0, 1.0, False)
    assert progress.moving([job], time.time() + 60) == []  # killed long ago
    (job.folder / "evaluation.json").unlink()
    (job.folder / "status").write_text("complete\n")
    assert progress.moving([job], 0.0)[0].evaluating
    clocks = [1.0, 5.0, 2.0, 3.0]
    assert track.seconds({"time/seconds": clock} for clock in clocks) == 8.0
    resumed = [(100, 4.0, 25.0), (125, 5.0, 25.0), (200, 6.0, 12.5), (275, 12.0, 12.5)]  # at update 125
    names = ("update", "time/seconds", "time/updates_per_second")
    assert track.seconds(dict(zip(names, line, strict=True)) for line in resumed) == 17.0


def test_values_that_do_not_go_together_fail_alone(tmp_path: Path) -> None:
    """``elites`` of 1 is none; the search goes on."""
    text = (
        ONE.replace('["bc"]', '["omar"]') + "critic_widths = [8, 8]\n[search]\nelites = {low = 0, high = 2}\n"
    )
    file(tmp_path, text)
    result = call(tmp_path, "--search", "tpe", "--trials", "5", "--json")
    assert result.exit_code == 0, result.output
    trials = json.loads(result.stdout)["trials"]
    assert {trial["status"] for trial in trials} == {"complete"}
    assert 0 < len(trials) < 5
    assert 1 not in {trial["settings"]["elites"] for trial in trials}


def test_threads_are_those_that_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = [], torch.get_num_threads()
    train = fit.fit

    def watched(*given: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return train(*given, **named)

    monkeypatch.setattr(fit, "fit", watched)
    file(tmp_path, ONE.replace("batch_size", "threads = 2\nbatch_size"))
    try:
        assert call(tmp_path).exit_code == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [2]
