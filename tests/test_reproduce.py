"""Grids: what is there, what is made, what is refused, and that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from children import heeds_interrupts
from commands import dom2
from safetensors.torch import load_file

from dom2 import checkpoint, evaluate, experiments, fit, jobs, pace, reproduce, run, tables
from dom2.experiments import SCALES, Cell, Scale
from dom2.jobs import Job
from dom2.networks import MLPNoise, ResidualNoise
from dom2.reproduce import Grid
from dom2_cli.reproducing import Part
from dom2data import dataset, envs, executors, generate
from dom2data.errors import UserError

TINY = Scale("compact", 2, 16, {"": 8}, {"": 3}, 2, steps=1250)
SMALL = {"actor_widths": (8, 8), "critic_widths": (8, 8)}
CELLS = tuple(
    Cell("tag", "random", algorithm, algorithm, (("actor_widths", (8, 8)),)) for algorithm in ("bc", "ma-cql")
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "smoke", TINY)


def grid(runs: Path, cells: tuple[Cell, ...] = CELLS, target: str = "table2") -> Grid:
    return Grid(target, "smoke", cells, 2, runs)


def weights(job: Job) -> dict[str, list[float]]:
    folder = checkpoint.latest(job.folder)
    assert folder is not None
    return {name: value.tolist() for name, value in load_file(folder / "weights.safetensors").items()}


def make(asked: Grid, workers: int = 1) -> list[jobs.Outcome]:
    reproduce.prepare(asked)
    return list(jobs.carry_out(asked.jobs(), executors.choose(workers=workers)))


def test_every_target_consists_of_known_cells() -> None:
    for name, target in experiments.TARGETS.items():
        cells = experiments.cells(name)
        assert cells
        assert {cell.env for cell in cells} <= set(envs.KNOWN)
        for scale in SCALES:
            Grid(name, scale, tuple(cells), 1, Path("runs")).jobs()  # every setting is one of its algorithm
        assert set(target.shifts) >= {"none"}
    assert len(experiments.cells("table1")) == 18 * 6


@pytest.mark.parametrize("scale", ["compact", "paper"])
def test_updates_are_enough_for_every_stage_of_sfbc(scale: str) -> None:
    for cell in experiments.cells("table1", ["ma-sfbc"]) + experiments.cells("table3", ["ma-sfbc"]):
        config = fit.configure("ma-sfbc", SCALES[scale].preset, cell.env, cell.quality, {})
        stages = config.behaviour_updates + config.iterations * config.critic_updates
        assert SCALES[scale].updates_of(cell) == stages


def test_only_narrows_by_kind() -> None:
    found = experiments.cells("table1", ["tag", "spread", "medium", "dom2"])
    assert [(cell.data, cell.label) for cell in found] == [("tag-medium", "dom2"), ("spread-medium", "dom2")]
    assert {cell.data for cell in experiments.cells("table1", ["world-expert"])} == {"world-expert"}
    found = experiments.cells("figure5", ["tag-medium", "dom2", "1%", "50%"])
    assert [cell.data for cell in found] == ["tag-medium-1pct", "tag-medium-50pct"]
    with pytest.raises(UserError, match=r"--only .*environment: tag, .*part .*: 100%; found 'cheetah'"):
        experiments.cells("table1", ["tag", "cheetah"])
    with pytest.raises(UserError, match=r"expected a target .*'table9'"):
        experiments.cells("table9")
    with pytest.raises(UserError, match="expected an algorithm"):
        experiments.cells("table1", columns=["bcc"])


def test_a_setting_that_is_the_default_shares_its_run() -> None:
    found = {cell.label: cell.folder() for cell in experiments.cells("sensitivity", ["tag-medium"])}
    plain = Path("tag-medium/dom2")
    assert {label for label, folder in found.items() if folder == plain} == {
        "eta 4.0", "zeta 0.5", "n_steps 5", "rho 0.02", "grid quadratic", "thresholds 0.5_0.75_0.9_0.95"
    }  # fmt: skip
    assert found["eta 2.0"] == Path("tag-medium/dom2,eta=2.0")
    assert len({cell.folder() for cell in experiments.cells("table1")}) == 18 * 6


def test_what_the_presets_have_is_among_the_values_of_the_sensitivity() -> None:
    for data in {cell.data for cell in experiments.cells("sensitivity")}:
        own = [c for c in experiments.cells("sensitivity", [data]) if c.folder() == Path(data, "dom2")]
        assert sorted(cell.label.split()[0] for cell in own) == sorted(experiments.SENSITIVITY), data


def test_from_nothing_to_done_and_nothing_twice(tmp_path: Path) -> None:
    asked = dataclasses.replace(grid(tmp_path), root=tmp_path / "data")
    assert reproduce.datasets_missing(asked) == ["tag-random-smoke"]
    assert [jobs.stage(job) for job in asked.jobs()] == ["missing", "missing"]
    assert [outcome.word for outcome in make(asked)] == ["done", "done"]
    assert reproduce.datasets_missing(asked) == []
    assert [jobs.stage(job) for job in asked.jobs()] == ["done", "done"]
    job = asked.jobs()[0]
    files = [job.folder / "evaluation.json", job.folder / "evaluation-speed.json"]
    before = [path.stat().st_mtime_ns for path in files]
    files[1].unlink()
    assert jobs.stage(job) == "fitted"
    saved = weights(job)
    assert [outcome.word for outcome in make(asked)] == ["done", "done"]
    assert files[0].stat().st_mtime_ns == before[0]
    assert files[1].exists()
    assert weights(job) == saved


def test_an_evaluation_made_otherwise_does_not_count(tmp_path: Path) -> None:
    asked = grid(tmp_path, CELLS[:1])
    make(asked)
    (job,) = asked.jobs()
    found = evaluate.kept(job.folder)[0]
    for other in ({"candidates": 10}, {"seed": 7}, {"mismatch": [{"fact": "dt"}]}, {"episodes": 99}):
        evaluate.keep(job.folder, found | other)
        assert jobs.stage(job) == "fitted"
    assert jobs.work(job).word == "done"
    assert evaluate.kept(job.folder)[0] == found


def test_two_versions_of_a_dataset_are_not_one_row(tmp_path: Path) -> None:
    asked = grid(tmp_path)
    make(asked)
    job = asked.jobs()[1]
    document = json.loads((job.folder / "config.json").read_text())
    document["dataset"] |= {"id": "dom2/tag-random-smoke-v1", "hash": "0" * 64}
    (job.folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="expected one dataset, found dom2/tag-random-smoke-v0 in") as error:
        tables.entries(asked)
    assert error.value.code == 3


def test_the_sensitivity_moves_from_the_preset_of_its_scale() -> None:
    found = {cell.label: cell for cell in experiments.cells("sensitivity", ["tag-medium"], scale="paper")}
    assert found["rho 0.005"].settings == ()  # of ``wide``
    assert found["rho 0.02"].settings == (("rho", 0.02),)


def test_two_at_once_make_the_same(tmp_path: Path) -> None:
    one, two = grid(tmp_path / "one"), grid(tmp_path / "two")
    make(one)
    make(two, workers=2)
    for left, right in zip(one.jobs(), two.jobs(), strict=True):
        assert weights(left) == weights(right)
        assert [
            json.loads((job.folder / "evaluation.json").read_text())["per_seed"] for job in (left, right)
        ].count(json.loads((left.folder / "evaluation.json").read_text())["per_seed"]) == 2


def test_a_cell_is_a_run_that_anyone_can_fit(tmp_path: Path) -> None:
    asked = grid(tmp_path, CELLS[:1])
    make(asked)
    words = ["fit", "--dataset", "tag-random-smoke", "--out", str(tmp_path / "own"), "--algorithm", "bc"]
    words += ["--actor-widths", "8,8", "--batch-size", "16", "--updates", "8"]
    words += ["--seeds", "2", "--threads", "1"]
    result = dom2(*words)
    assert result.exit_code == 0, result.output
    cell = checkpoint.load_weights(asked.jobs()[0].folder, torch.device("cpu"))[1]
    own = checkpoint.load_weights(tmp_path / "own", torch.device("cpu"))[1]
    assert own.keys() == cell.keys()
    assert all(torch.equal(value, cell[name]) for name, value in own.items())


def test_begun_runs_go_on_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = grid(tmp_path / "whole"), grid(tmp_path / "parts")
    make(whole)
    for job in parts.jobs():
        short = dataclasses.replace(job, settings=job.settings | {"updates": 3})
        assert jobs.work(short).word == "done"
        assert jobs.stage(job) == "begun"
    make(parts)
    for left, right in zip(whole.jobs(), parts.jobs(), strict=True):
        assert weights(left) == weights(right)
        assert jobs.stage(right) == "done"


def test_another_run_in_the_folder_is_refused_and_kept(tmp_path: Path) -> None:
    asked = grid(tmp_path)
    make(asked)
    job = asked.jobs()[0]
    other = dataclasses.replace(job, config=job.config | {"lr": 0.5})
    assert jobs.stage(other) == "other"
    outcome = jobs.work(other)
    assert outcome.word == "failed"
    assert "lr: expected 0.5, found " in outcome.error
    assert jobs.stage(job) == "done"
    (job.folder / "config.json").write_text("{")
    assert jobs.stage(job) == "other"
    assert jobs.work(job).word == "failed"
    foreign = dataclasses.replace(job, folder=tmp_path / "foreign")
    foreign.folder.mkdir()
    (foreign.folder / "config.json").write_text('{"model_type": "bert"}')
    assert jobs.stage(foreign) == "other"
    assert jobs.work(foreign).word == "failed"


def test_fewer_updates_than_are_there_are_refused(tmp_path: Path) -> None:
    asked = grid(tmp_path, CELLS[:1])
    make(asked)
    job = asked.jobs()[0]
    fewer = dataclasses.replace(job, settings=job.settings | {"updates": 4})
    assert jobs.stage(fewer) == "other"
    assert "updates: expected 4, found 8" in jobs.work(fewer).error


def test_changed_data_are_refused(tmp_path: Path) -> None:
    asked = dataclasses.replace(grid(tmp_path, CELLS[:1]), root=tmp_path / "data")
    make(asked)
    job = asked.jobs()[0]
    (job.folder / "evaluation.json").unlink()
    plan = generate.plan("tag", "random", steps=1250, seed=9, out=job.dataset, root=asked.root)
    generate.generate(plan, force=True)
    outcome = jobs.work(job)
    assert outcome.word == "failed"
    assert f"hash of the data: expected {dataset.open(job.dataset, asked.root).hash}" in outcome.error


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    asked = grid(tmp_path)
    reproduce.prepare(asked)
    bad, good = asked.jobs()
    bad = dataclasses.replace(bad, settings=bad.settings | {"updates": -1})
    words = {o.job.folder: o for o in jobs.carry_out([bad, good], executors.Local())}
    assert words[bad.folder].word == "failed"
    assert "updates: expected 1 or more" in words[bad.folder].error
    assert words[good.folder].word == "done"


def test_a_part_of_the_trajectories_is_a_dataset_with_its_lineage(tmp_path: Path) -> None:
    cell = dataclasses.replace(CELLS[0], fraction=0.2)
    asked = grid(tmp_path, (cell,))
    make(asked)
    data = dataset.open(asked.jobs()[0].dataset)
    assert data.id == "dom2/tag-random-smoke-20pct-v0"
    assert data.n_episodes == 10
    assert data.manifest["parents"][0]["id"] == "dom2/tag-random-smoke-v0"
    assert run.read(asked.folder(cell)).document["dataset"]["id"] == data.id


ASKED = ["reproduce", "table1", "--scale", "smoke", "--only", "tag-random", "--algorithms", "bc,ma-cql"]


def program(runs: Path, root: Path, workers: str) -> subprocess.Popen[bytes]:
    """``dom2 reproduce`` as its users call it."""
    words = [sys.executable, "-c", "from dom2_cli.learn import main; main()", *ASKED, "--jobs", workers]
    environment = os.environ | {"MINARI_DATASETS_PATH": str(root)}
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    how["preexec_fn"] = heeds_interrupts
    return subprocess.Popen([*words, "--runs", str(runs)], env=environment, **how)


def here(runs: Path, root: Path) -> None:
    """The same command in this process, one job after the other."""
    words = [*ASKED, "--jobs", "1", "--runs", str(runs)]
    result = dom2(*words, env={"MINARI_DATASETS_PATH": str(root)})
    assert result.exit_code == 0, result.output


def test_interrupted_and_killed_it_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted when the fitting has begun, two at once; killed when it has gone on, one by one."""
    monkeypatch.undo()  # the scale as it is: the programs do not see another one
    whole, parts, root = tmp_path / "whole", tmp_path / "parts", tmp_path / "root"
    here(whole, root)
    fitted = parts / "smoke/tag-random/ma-cql"
    for number, workers, code in ((signal.SIGINT, "2", 130), (signal.SIGKILL, "1", -signal.SIGKILL)):
        for _ in range(5):  # on a busy machine the program may be quicker than this one; then anew
            updates = checkpoint.updates(fitted) if fitted.exists() else -1
            stopped = program(parts, root, workers)
            while stopped.poll() is None and (
                not (fitted / "config.json").exists() or checkpoint.updates(fitted) <= updates
            ):
                time.sleep(0.01)
            stopped.send_signal(number)
            if stopped.wait(60) != 0:
                break
            shutil.rmtree(fitted)
        assert stopped.returncode == code  # not 0: it ended before it could be stopped
    tiny.released(parts)
    here(parts, root)
    for name in ("bc", "ma-cql"):
        left, right = (checkpoint.latest(runs / "smoke/tag-random" / name) for runs in (whole, parts))
        assert left is not None
        assert right is not None
        assert (left / "weights.safetensors").read_bytes() == (right / "weights.safetensors").read_bytes()
    results = [
        json.loads((runs / "smoke/table1-tag-random-bc,ma-cql.json").read_text()) for runs in (whole, parts)
    ]
    assert results[0]["entries"] == results[1]["entries"]


def test_a_dry_run_says_what_there_is_and_what_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every target, as a table and as JSON; nothing is written. What is alike is timed once."""
    seconds: dict[Any, float] = {}
    measured = pace.measured

    def once(job: Job) -> float:
        if pace.likeness(job) not in seconds:
            seconds[pace.likeness(job)] = measured(job)
        return seconds[pace.likeness(job)]

    monkeypatch.setattr(pace, "measured", once)
    words = ["--runs", str(tmp_path / "runs"), "--root", str(tmp_path), "--scale", "smoke", "--dry-run"]
    for target, columns in (("table1", 6), ("comparison", 13)):  # many columns stand one below the other
        asked = ["reproduce", target, "--only", "tag-random", *words]
        table = dom2(*asked)
        assert table.exit_code == 0, table.output
        assert table.stdout.count("missing") == columns
        document = json.loads(dom2(*asked, "--json").stdout)
        assert {cell["stage"] for cell in document["cells"]} == {"missing"}
        assert len(document["cells"]) == columns
        assert (document["scale"], document["missing_datasets"]) == ("smoke", ["tag-random-smoke"])
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_target_has_a_report_of_its_own() -> None:
    whole, part = Part("table1", "compact"), Part("table1", "smoke", ("tag", "5%"), ("bc", "dom2"), 2)
    assert (whole.command, whole.name) == ("dom2 reproduce table1", "table1")
    assert part.name == "table1-tag,5_-bc,dom2-2_seeds"
    both = Part("table1", "smoke", ("medium", "expert"))
    assert both.name != Part("table1", "smoke", ("medium-expert",)).name
    assert part.command == (
        "dom2 reproduce table1 --scale smoke --only tag --only 5% --algorithms bc,dom2 --seeds 2"
    )


def test_reports_of_parts_that_differ_have_names_that_differ() -> None:
    words = [("rho 0.01",), ("rho 0.05",), ("tag",) * 30, ("tag",) * 31]
    assert len({Part("sensitivity", "compact", only).name for only in words}) == 4


def test_updates_that_leave_a_loss_out_are_timed_by_themselves(tmp_path: Path) -> None:
    found = {}
    for label in ("dom2", "no policy improvement"):
        (cell,) = experiments.cells("figure6", ["tag-medium", label])
        (found[label],) = Grid("figure6", "compact", (cell,), 5, tmp_path).jobs()
    kept = found["dom2"]
    other = dataclasses.replace(kept, config=kept.config | {"eta": 0.25})
    assert pace.likeness(kept) == pace.likeness(other)
    assert pace.likeness(kept) != pace.likeness(found["no policy improvement"])


def test_another_number_of_seeds_is_another_run(tmp_path: Path) -> None:
    (cell,) = experiments.cells("table1", ["tag-medium", "bc"])
    usual, fewer = (Grid("table1", "compact", (cell,), seeds, tmp_path) for seeds in (5, 2))
    assert usual.folder(cell) == tmp_path / "compact/tag-medium/bc"
    assert fewer.jobs()[0].folder == tmp_path / "compact/tag-medium/bc,seeds=2"


def test_the_mlp_is_as_large_as_what_it_replaces_at_every_scale() -> None:
    for scale, preset in (("compact", "compact"), ("paper", "wide")):
        (cell,) = experiments.cells("figure6", ["tag-medium", "MLP noise network"], scale=scale)
        own = dict(cell.settings)["widths"]
        residual = presets_of(preset)
        generators = [torch.Generator()]
        sizes = (1, 16, 2, torch.linspace(0, 1, 6), generators)
        mlp, wanted = (sum(p.numel() for p in net.parameters())
                       for net in (MLPNoise(*sizes, own), ResidualNoise(*sizes, *residual)))  # fmt: skip
        assert 0.95 < mlp / wanted < 1.2


def presets_of(preset: str) -> tuple[tuple[int, ...], int]:
    config = fit.configure("dom2", preset, "tag", "medium", {})
    return config.widths, config.embed_dim


def test_sensitivity_is_of_dom2_alone() -> None:
    with pytest.raises(UserError, match="expected sensitivity without --algorithms"):
        experiments.cells("sensitivity", columns=["bc"])
