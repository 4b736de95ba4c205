"""No code of a user's own runs on the word of a dataset or a run alone."""

from __future__ import annotations

import json
from pathlib import Path

import meeting
import pytest
import torch
import weighted
from tiny import CPU, generators, new_run

from dom2 import evaluate, film, run
from dom2data import dataset, generate, named
from dom2data.envs import joint
from dom2data.errors import UserError

torch.set_num_threads(1)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call it to be somebody who has named nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(named, "_here", set())


def forget(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setattr(named, "_here", set())


@pytest.mark.usefixtures("stranger")
def test_a_dataset_cannot_name_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = meeting.written(tmp_path)
    plan = generate.plan(name, "random", steps=60, root=tmp_path / "root")
    generate.generate(plan)
    data = dataset.open(plan.dataset_id, tmp_path / "root")
    assert run.mismatch(data.spec, data.env) == []
    assert named.file().read_text() == f"{name}\t{tmp_path}\n"
    forget(monkeypatch, tmp_path / "another")
    with pytest.raises(UserError, match=r"meet\.py:make, which .*meet\.py:make` allows it") as error:
        run.mismatch(data.spec, data.env)
    assert error.value.code == 3
    assert run.mismatch(data.spec, data.env, allow=True)[0]["fact"] == "environment"
    begun = new_run(tmp_path / "run")
    begun.document["dataset"]["env"] = name
    for act in (evaluate.evaluate, lambda *_, **how: film.frames(*_, agents=0, **how)):
        with pytest.raises(UserError, match="nothing is run on their word"):
            act(begun, episodes=1, allow_mismatch=True)
    with pytest.raises(UserError, match="nothing is run on their word"):
        joint.JointEnv(name)
    monkeypatch.setenv(named.VARIABLE, f"other:make,{name}")
    assert run.mismatch(data.spec, data.env) == []


@pytest.mark.usefixtures("stranger")
def test_nor_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named.remember("meet:make")
    named.environment("meet:make")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="in this folder"):
        named.environment("meet:make")
    named.environment("tag")


@pytest.mark.usefixtures("stranger")
def test_a_run_cannot_name_an_algorithm_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = new_run(tmp_path / "run")
    path = begun.folder / "config.json"
    document = json.loads(path.read_text())
    document["settings"]["algorithm"] = weighted.written(tmp_path)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"dom2 fit --algorithm .* allows it"):
        run.read(begun.folder).build(CPU, generators(0))
