"""The folder of a run: who may make and replace it, and what is said where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import CPU, new_run

from dom2 import checkpoint, evaluate, fit, run
from dom2.algorithms import Learner
from dom2data.errors import UserError


def test_one_of_two_commands_that_begin_a_run_at_once_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked, and found the folder free."""
    looked = run.free
    monkeypatch.setattr(run, "free", lambda folder, force: None)
    first = new_run(tmp_path / "run", hyper={"eta": 3.0})
    monkeypatch.setattr(run, "free", looked)
    with pytest.raises(UserError, match="found a run"):
        new_run(tmp_path / "run", hyper={"eta": 7.0})
    replaced = run.create(
        tmp_path / "run", first.document | {"config": first.document["config"] | {"eta": 7.0}}, True
    )
    for stale in (lambda: fit.fit(first), lambda: first.amend(updates=9)):
        with pytest.raises(UserError, match="found another run in its place"):
            stale()
    assert fit.fit(replaced) == "complete"


def test_an_evaluation_is_not_kept_by_a_run_that_took_the_place(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    fit.fit(begun)
    found = evaluate.evaluate(begun, 2)
    run.create(begun.folder, begun.document | {"created": "2000-01-01T00:00:00+00:00"}, force=True)
    with pytest.raises(UserError, match="found another in its place"):
        evaluate.keep(begun.folder, found)
    assert evaluate.kept(begun.folder) == []


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", updates=3, checkpoint_every=2)
    save = fit.save

    def spoilt(run: run.Run, algorithm: Learner, sampler: fit.Minibatches, update: int) -> None:
        if update == 3:
            with torch.no_grad():
                next(algorithm.members.networks["noise"].parameters()).fill_(torch.nan)
        save(run, algorithm, sampler, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "save", spoilt)
        with pytest.raises(UserError, match=r"update 3: expected numbers as weights.*at update 2 is kept"):
            fit.fit(begun)
    assert (checkpoint.updates(begun.folder), begun.status) == (2, "failed")


def test_a_checkpoint_of_other_networks_is_one_line(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    fit.fit(begun)
    begun.document["config"]["widths"] = [8, 8, 8]
    run.write(begun.folder / "config.json", json.dumps(begun.document))
    other = run.read(begun.folder)
    for use in (lambda: evaluate.evaluate(other, 2), lambda: fit.fit(other)):
        with pytest.raises(UserError, match="expected the state of the run's algorithm") as error:
            use()
        assert (error.value.code, str(error.value).count("\n")) == (3, 0)


@pytest.mark.parametrize(
    ("part", "value"), [("settings", {"updates": "x"}), ("config", {"eta": "x"}), ("config", {"rho": 7.0})]
)
def test_an_edited_run_names_its_file(tmp_path: Path, part: str, value: dict) -> None:
    begun = new_run(tmp_path / "run")
    begun.document[part] |= value
    run.write(begun.folder / "config.json", json.dumps(begun.document))
    with pytest.raises(UserError, match=r"config\.json: ") as error:
        run.read(begun.folder).build(CPU, [torch.Generator()])
    assert error.value.code == 3
    (begun.folder / "checkpoint").mkdir()
    (begun.folder / "checkpoint" / "latest").write_text("")
    with pytest.raises(UserError, match="expected a checkpoint's name") as error:
        checkpoint.load_weights(begun.folder, CPU)
    assert error.value.code == 3
