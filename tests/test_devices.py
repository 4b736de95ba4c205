"""What depends on whether there is a GPU, as far as that shows without one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from commands import dom2
from test_reproduce import CELLS, TINY, grid, make

from dom2 import jobs, run
from dom2.experiments import SCALES
from dom2data import executors


def test_what_was_fitted_on_a_gpu_is_evaluated_without_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCALES, "smoke", TINY)
    asked = grid(tmp_path, CELLS[:1])
    make(asked)
    (job,) = asked.jobs()
    (job.folder / "evaluation.json").unlink()
    run.read(job.folder).amend(device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [each.word for each in make(asked)] == ["done"]
    assert json.loads((job.folder / "evaluation.json").read_text())["device"] == "cpu"
    refused = dom2("evaluate", job.folder, "--device", "cuda")
    assert (refused.exit_code, "found none; leave --device out" in refused.stderr) == (2, True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert jobs.at_once([job]) == 1
    on_cpu = dataclasses.replace(job, settings=job.settings | {"device": "cpu"})
    assert jobs.at_once([on_cpu]) == executors.cores()
