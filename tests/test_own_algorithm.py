"""The page's example of an algorithm of one's own works like those of the repository."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import MISSING
from pathlib import Path

import pytest
import torch
import weighted
from commands import dom2
from test_algorithms import make
from tiny import CPU, SPEC, generators, minibatch, tag_random

from dom2 import algorithms, checkpoint
from dom2.algorithms import Algorithm
from dom2.config import Field
from dom2_cli import learn
from dom2data.errors import UserError


def own(name: str, seeds: int = 1, first: int = 0, **settings: float | tuple[int, ...]) -> Algorithm:
    kind = algorithms.load(name)
    config = kind.config_type(**{"widths": (16, 16)} | settings)
    return algorithms.create(kind, config, SPEC, seeds, CPU, generators(*range(first, first + seeds)))


def test_the_command_runs_resumes_and_evaluates_it(tmp_path: Path) -> None:
    name, whole, halves = weighted.written(tmp_path), str(tmp_path / "whole"), str(tmp_path / "halves")
    fit = ["fit", "--algorithm", name, "--dataset", tag_random(), "--batch-size", "8", "--threads", "1"]
    for arguments in (
        [*fit, "--beta", "2", "--seeds", "2", "--updates", "4", "--out", whole],
        [*fit, "--beta", "2", "--seeds", "2", "--updates", "2", "--out", halves],
        ["fit", "--resume", halves, "--updates", "4"],
        ["evaluate", whole, "--episodes", "3"],
    ):
        result = dom2(*arguments)
        assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "whole/config.json").read_text())
    assert (document["config"]["beta"], document["settings"]["augment"]) == (2.0, "none")
    one, other = (checkpoint.load_weights(Path(folder), CPU)[1] for folder in (whole, halves))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert json.loads((tmp_path / "whole/evaluation.json").read_text())["seeds"] == 2


def test_a_file_runs_once_until_it_is_edited(tmp_path: Path) -> None:
    name, file, runs = weighted.written(tmp_path), tmp_path / "weighted.py", tmp_path / "runs"
    count = f"with open({str(runs)!r}, 'a') as runs:\n    runs.write('.')\n"
    code = file.read_text() + count
    file.write_text(code)
    assert algorithms.load(name) is algorithms.load(name)
    fit = ["fit", "--algorithm", name, "--dataset", tag_random(), "--batch-size", "8", "--threads", "1"]
    result = dom2(*fit, "--updates", "1", "--out", tmp_path / "run")
    assert (result.exit_code, runs.read_text()) == (0, "."), result.output
    (tmp_path / "other").mkdir()
    other = algorithms.load(weighted.written(tmp_path / "other"))
    assert algorithms.load(name) is not other
    assert sys.modules["dom2_user_weighted"].__file__ == str(file)
    file.write_text(code.replace("'.'", "':'"))  # as long
    algorithms.load(name)
    assert runs.read_text() == ".:"


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    broken, unfinished = tmp_path / "broken.py", tmp_path / "unfinished.py"
    broken.write_text("class Mine:\n  def\n")
    unfinished.write_text("class Mine:\n    presets = {}\n")
    with pytest.raises(UserError, match=r"broken\.py: expected a module .* SyntaxError: .*line 2"):
        algorithms.load(f"{broken}:Mine")
    with pytest.raises(UserError, match="found no __init__, config_type, batches, augment, update, policy"):
        algorithms.load(f"{unfinished}:Mine")


def test_its_settings_are_flags_with_help(tmp_path: Path) -> None:
    result = dom2("fit", "--algorithm", weighted.written(tmp_path), "--help")
    assert result.exit_code == 0
    assert "--beta" in result.output
    assert "Inverse temperature" in result.output
    field = Field("table", dict[str, float], MISSING, "A table.")
    assert learn.option(field).help == "A table."  # of a default made for each config nothing is shown


def test_its_seeds_are_single_runs_and_without_weights_it_clones(tmp_path: Path) -> None:
    name = weighted.written(tmp_path)
    together, alone = own(name, seeds=2), own(name, first=1)
    for u in range(3):
        together.update(minibatch(together, range(2), u))
        alone.update(minibatch(alone, range(1, 2), u))
    found = together.members.weights()
    assert all(torch.equal(found[key].chunk(2)[1], v) for key, v in alone.members.weights().items())
    plain, cloning = own(name, beta=0.0), make("bc")
    plain.members.load_weights(plain.members.weights() | cloning.members.weights())
    for u in range(3):
        b = minibatch(plain, range(1), u)
        assert torch.allclose(plain.update(b)["actor/bc"], cloning.update(b)["actor/bc"])
    assert not torch.allclose(own(name).update(b)["actor/bc"], own(name, beta=0.0).update(b)["actor/bc"])


def test_a_file_may_make_its_members_itself(tmp_path: Path) -> None:
    name, file = weighted.written(tmp_path), tmp_path / "weighted.py"
    lines = ("", "    @classmethod", "    def create(cls, config, spec, n_seeds, device, generators):")
    last = '        raise ZeroDivisionError(f"{n_seeds} {device} {len(generators)}")\n'
    file.write_text(file.read_text() + "\n".join((*lines, last)))
    with pytest.raises(ZeroDivisionError, match="2 cpu 2"):
        own(name, seeds=2)


def test_a_class_that_cannot_be_made_is_none(tmp_path: Path) -> None:
    names = "\n    ".join(f"{each} = None" for each in ("config_type", "presets", "batches", "augment"))
    (tmp_path / "bare.py").write_text(f"class Bare:\n    {names}\n    update = policy = None\n")
    with pytest.raises(UserError, match="found no __init__ in it"):
        algorithms.load(f"{tmp_path / 'bare.py'}:Bare")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"independent"', '"jiont"'), "expected batches independent, joint or windows, found 'jiont'"),
        (("self.config, self.members = config", "self.config, _ = config"), "to set members, found none"),
        (("@dataclass(frozen=True)\n", ""), "expected config_type to be a frozen dataclass, found <class"),
        (("beta: float = 1.0", "beta: float"), "expected a default of Config.beta, found none"),
    ],
)
def test_what_others_look_for_has_to_be_there(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    name, run = weighted.written(tmp_path, change), tmp_path / "run"
    result = dom2("fit", "--algorithm", name, "--dataset", tag_random(), "--updates", "1", "--out", run)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert not run.exists()


METRICS = '{"value/td": td.detach(), "actor/bc": cloning.detach()}'


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("weight = (", "weight = {}['oops'] * ("),
            r"error: weighted\.py, line \d+: KeyError: 'oops'; fix it",
        ),
        (("value = StackedMLP(m,", "value = StackedMLP(7,"), r"line \d+: ValueError: members must be a mult"),
        (
            ("return actor.policy(", "return actor.polcy("),
            r"line \d+: AttributeError: .* no attribute 'polcy'",
        ),
        ((METRICS, "None"), "expected metrics from update, found None; return tensors .* by name"),
        ((METRICS, '{"a": td.mean()}'), r"each member or seed as a, found shape \[\] with 2 seeds;"),
        ((METRICS, '{"a": float(td.mean())}'), "a number for each member or seed as a, found float;"),
    ],
)
def test_an_error_of_its_own_is_told_as_such(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    name, run = weighted.written(tmp_path, change), tmp_path / "run"
    fit = ["fit", "--algorithm", name, "--dataset", tag_random(), "--updates", "1", "--batch-size", "8"]
    every = ["--eval-every", "1", "--eval-episodes", "1", "--seeds", "2", "--threads", "1"]
    result = dom2(*fit, *every, "--out", run)
    assert result.exit_code == 1, result.output
    assert re.search(says, result.stderr)
    assert "this is a bug" not in result.stderr


@pytest.mark.parametrize("field", ["batch_size", "out", "json"])
def test_a_setting_that_every_run_has_is_refused(tmp_path: Path, field: str) -> None:
    name = weighted.written(tmp_path, ("beta: float = 1.0", f"{field}: float = 1.0\n    beta: float = 1.0"))
    result = dom2("fit", "--algorithm", name, "--dataset", tag_random(), "--updates", "1")
    assert result.exit_code == 2
    says = f"found {field} in Config, whose flag --{field.replace('_', '-')} every run has"
    assert says in result.stderr


def test_a_value_that_its_config_refuses_is_usage(tmp_path: Path) -> None:
    refusing = (
        "    widths: tuple[int, ...] = (64, 64)",
        "    def __post_init__(self):\n        if self.beta < 0:\n"
        "            raise ValueError(f'expected beta of 0 or more, found {self.beta}')\n\n"
        "    widths: tuple[int, ...] = (64, 64)",
    )
    name = weighted.written(tmp_path, refusing)
    result = dom2("fit", "--algorithm", name, "--dataset", tag_random(), "--beta", "-1")
    assert (result.exit_code, result.stderr) == (2, "error: expected beta of 0 or more, found -1.0\n")


def test_a_script_that_ends_python_does_not_end_the_command(tmp_path: Path) -> None:
    name = weighted.written(tmp_path, ("import torch\n", "import torch\nraise SystemExit(0)\n"))
    result = dom2("fit", "--algorithm", name, "--dataset", tag_random())
    assert result.exit_code == 2
    assert "expected a module that can be imported, found SystemExit: 0" in result.stderr


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("weighted.py:Nothing", "found none"),
        ("nowhere.py:X", "expected a file nowhere.py, found none"),
        ("weighted.py", "found 'weighted.py'; name its class, weighted.py:Class"),
    ],
)
def test_a_wrong_name_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, says: str
) -> None:
    weighted.written(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = dom2("fit", "--algorithm", which, "--dataset", tag_random())
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_an_infinite_default_is_its_authors_to_have(tmp_path: Path) -> None:
    name, run = weighted.written(tmp_path), str(tmp_path / "run")
    file = tmp_path / "weighted.py"
    file.write_text(file.read_text().replace("beta: float = 1.0", "beta: float = float('inf')"))
    fit = ["fit", "--algorithm", name, "--dataset", tag_random(), "--batch-size", "8", "--threads", "1"]
    begun = dom2(*fit, "--updates", "1", "--out", run)
    assert "found inf" not in begun.output
    given = dom2(*fit, "--lr", "inf", "--out", run, "--force")
    assert (given.exit_code, "lr: expected number, found inf" in given.stderr) == (2, True)
