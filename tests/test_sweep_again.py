"""A sweep that is stopped at the end of a run, or comes upon what others have made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import dom2
from test_sweep import ONE, RANGES, call, file
from tiny import tag_random

from dom2 import evaluate
from dom2data import generate

TWO = ONE + "[grid]\nlr = [0.01, 0.001]\n"


@pytest.fixture(autouse=True)
def _data() -> None:
    tag_random()


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs/sweep.json").read_text())
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_interrupted_in_a_last_evaluation_no_other_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    whole = evaluate.evaluate

    def interrupted(*given: Any, **named: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        if fails:
            raise RuntimeError("no memory")
        return whole(*given, **named)

    monkeypatch.setattr(evaluate, "evaluate", interrupted)
    file(tmp_path, TWO)
    result = call(tmp_path)
    assert result.exit_code == 130, result.output
    assert not (tmp_path / "runs/tiny-random/bc,lr=0.001").exists()
    rows = {row["run"]: row["status"] for row in record(tmp_path)["runs"]}
    word = "interrupted" if fails else "done"
    assert rows == {"tiny-random/bc,lr=0.01": word, "tiny-random/bc,lr=0.001": "missing"}
    assert (tmp_path / "runs/tiny-random/bc,lr=0.01/error.txt").exists() == fails


@pytest.mark.parametrize("search", [False, True])
def test_an_evaluation_by_hand_with_more_episodes_will_do_another_is_replaced(
    tmp_path: Path, search: bool
) -> None:
    """Grids and searches have the run again, and a trial that is over keeps its value."""
    more = ("--search", "tpe", "--trials", "1") if search else ()
    file(tmp_path, RANGES if search else ONE)
    assert call(tmp_path, *more).exit_code == 0
    before = record(tmp_path)
    folder = tmp_path / "runs" / before["runs"][0]["run"]
    for words, kept in ((("--episodes", "5"), 5), (("--episodes", "2"), 3), (("--seed", "1"), 3)):
        by_hand = dom2("evaluate", folder, *words)
        assert by_hand.exit_code == 0, by_hand.output
        assert call(tmp_path, *more).exit_code == 0
        after = record(tmp_path)
        assert after["runs"][0]["status"] == "done"
        assert after.get("trials") == before.get("trials")
        (found,) = evaluate.kept(folder)
        assert (found["episodes"], found["seed"]) == (kept, 0)
    assert after == before


OTHERS = [
    (TWO.replace("0.01, 0.001", "0.5"), (), 2, "it asks for none of the runs there"),
    (TWO.replace("= 16", "= 8"), (), 2, "lr=0.001: batch_size: expected 8, found 16"),
    (TWO.replace("updates = 6", "updates = 5"), (), 2, "lr=0.001: updates: expected 5, found 6"),
    (RANGES, ("--search", "tpe", "--trials", "1"), 2, "it asks for none"),
]
ADDED = [
    TWO.replace("[0.01, 0.001]", "[0.5, 0.001]"),
    TWO.replace('["bc"]', '["bc", "ma-cql"]') + "[settings.ma-cql]\ncritic_widths = [8, 8]\n",
    TWO.replace("updates = 6", "updates = 7"),
]


def test_another_sweep_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """What is added to a file makes no other of it."""
    file(tmp_path, TWO)
    assert call(tmp_path).exit_code == 0
    kept = {name: (tmp_path / "runs" / name).read_bytes() for name in ("spec.toml", "sweep.json")}
    for text, more, code, message in OTHERS:
        file(tmp_path, text)
        refused = call(tmp_path, *more)
        assert (refused.exit_code, message in refused.stderr) == (code, True), refused.output
        assert "choose another --out" in refused.stderr
    assert kept == {name: (tmp_path / "runs" / name).read_bytes() for name in kept}
    for text in ADDED:
        file(tmp_path, text)
        assert call(tmp_path).exit_code == 0
        assert (tmp_path / "runs/spec.toml").read_text() == text


def test_a_run_on_other_data_is_none_of_the_datasets(tmp_path: Path) -> None:
    """As of a folder that was copied: its settings are those that are asked for."""
    file(tmp_path, ONE)
    assert call(tmp_path).exit_code == 0
    generate.generate(generate.plan("tag", "random", steps=1250, seed=5, out="tiny-other-v0"))
    copied = tmp_path / "runs/tiny-other/bc"
    shutil.copytree(tmp_path / "runs/tiny-random/bc", copied)
    file(tmp_path, ONE.replace('["tiny-random"]', '["tiny-random", "tiny-other"]'))
    said = call(tmp_path)
    assert (said.exit_code, "dataset: expected tiny-other, found dom2/tiny-random-v0" in said.stderr) == (
        1,
        True,
    )
    assert [row["status"] for row in record(tmp_path)["runs"]] == ["done", "failed"]
    assert (copied / "evaluation.json").exists()


def test_two_versions_of_a_dataset_are_not_one(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for version, seed in enumerate((5, 6)):
        made = generate.plan("tag", "random", steps=50, seed=seed, out=f"tiny-random-v{version}", root=root)
        generate.generate(made)
        file(tmp_path, TWO.replace("0.01, 0.001", ("0.01", "0.01, 0.001")[version]))
        said = call(tmp_path, "--root", str(root))
    assert (said.exit_code, len(record(tmp_path)["runs"])) == (3, 1), said.output
    assert "tiny-random: expected one dataset, found dom2/tiny-random-v1 in" in said.stderr
    assert len(list((tmp_path / "runs/tiny-random").glob("bc*"))) == 1  # before anything was fitted


def test_a_table_names_the_shift_that_runs_are_compared_by(tmp_path: Path) -> None:
    file(tmp_path, 'shifts = ["noise", "none"]\n' + ONE)
    header = call(tmp_path).stdout.splitlines()[0]
    words = ["run", "status", "updates", "return (noise)", "return", "score (noise)", "minutes"]
    assert re.split(r" {2,}", header) == words


def test_another_search_leaves_nothing_in_the_folder_of_the_first(tmp_path: Path) -> None:
    more = ("--search", "tpe", "--trials", "1")
    file(tmp_path, RANGES)
    assert call(tmp_path, *more).exit_code == 0
    files = [tmp_path / "runs" / name for name in ("spec.toml", "sweep.json")]
    kept = [path.read_bytes() for path in files]
    for text, code in (
        (RANGES.replace('"bc"', '"ma-cql"'), 2),
        (RANGES.replace("1e-1", "1e-2"), 3),
        (ONE, 2),
    ):
        file(tmp_path, text)
        refused = call(tmp_path, *(more if text != ONE else ()))
        assert (refused.exit_code, "choose another --out" in refused.stderr) == (code, True), refused.output
        assert [path.read_bytes() for path in files] == kept
    assert '"ma-cql"' not in (tmp_path / "runs/search.journal").read_text()
