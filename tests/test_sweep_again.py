"""A sweep that is stopped at the end of a run, or comes upon what others have made."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from test_sweep import ONE, call, file
from tiny import tag_random

from dom2 import evaluate

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
