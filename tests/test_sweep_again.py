"""A sweep that is stopped at the end of a run, or comes upon what others have made."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_sweep import ONE, RANGES, call, file
from tiny import tag_random

from dom2 import evaluate
from dom2_cli.learn import main

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
        by_hand = CliRunner().invoke(main, ["evaluate", str(folder), *words])
        assert by_hand.exit_code == 0, by_hand.output
        assert call(tmp_path, *more).exit_code == 0
        after = record(tmp_path)
        assert after["runs"][0]["status"] == "done"
        assert after.get("trials") == before.get("trials")
        (found,) = evaluate.kept(folder)
        assert (found["episodes"], found["seed"]) == (kept, 0)
    assert after == before
