import json
import re
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from children import heeds_interrupts
from click.testing import Result
from commands import dom2
from tiny import tag_random

from dom2 import algorithms, checkpoint, results, run
from dom2_cli import running
from dom2data import dataset, ids, share
from dom2data.envs import physics, shifts

torch.set_num_threads(1)
SMALL = [
    "--widths",
    "16,8,8",
    "--embed-dim",
    "8",
    "--critic-widths",
    "16,16",
    "--batch-size",
    "16",
    "--threads",
    "1",
]


def fit(out: Path, *more: Any) -> Result:
    return dom2("fit", "--dataset", tag_random(), "--out", out, "--updates", 3, *SMALL, *more)


def test_data_behind_a_url(tmp_path: Path) -> None:
    """Streamed from there; what is not there is not made there."""
    there = tmp_path.as_uri()
    share.push(dataset.open(tag_random()), ids.root(), there)
    fitted = fit(tmp_path / "run", "--root", there, "--data", "stream")
    assert fitted.exit_code == 0, fitted.output
    assert fit(tmp_path / "whole", "--root", there).exit_code == 0
    missing = dom2("fit", "--dataset", "tag-expert", "--root", there)
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)


def test_fit_evaluate_report_end_to_end(tmp_path: Path) -> None:
    """Each command's result is on stdout alone, and names the next command on stderr."""
    fitted = fit(tmp_path / "run", "--seeds", 2, "--json")
    assert fitted.exit_code == 0, fitted.output
    assert json.loads(fitted.stdout)["status"] == "complete"
    assert f"next: dom2 evaluate {tmp_path / 'run'}" in fitted.stderr
    plain = dom2("evaluate", tmp_path / "run", "--episodes", 4)
    assert plain.exit_code == 0, plain.output
    assert "IQM" in plain.stdout
    evaluated = dom2("evaluate", tmp_path / "run", "--episodes", 4, "--json")
    document = json.loads(evaluated.stdout)
    for key in ("return", "normalized", "normalized_own"):
        assert document[key].keys() == {"mean", "std", "iqm", "ci"}
    assert document.keys() >= {"episodes", "seeds", "env", "shift", "updates", "dataset", "per_seed"}
    assert document == json.loads((tmp_path / "run" / "evaluation.json").read_text())
    shifted = json.loads(
        dom2("evaluate", tmp_path / "run", "--shift", "speed", "--episodes", 3, "--json").stdout
    )
    assert shifted == json.loads((tmp_path / "run" / "evaluation-speed.json").read_text())
    assert document == json.loads((tmp_path / "run" / "evaluation.json").read_text())
    reported = dom2("report", tmp_path / "run")
    assert reported.exit_code == 0, reported.output
    assert Path(reported.stdout.strip()).is_file()


def test_print_config_layers_and_writes_nothing(tmp_path: Path) -> None:
    shown = json.loads(fit(tmp_path / "run", "--eta", "0.5", "--preset", "wide", "--print-config").stdout)
    assert shown["config"]["eta"] == 0.5
    assert shown["config"]["widths"] == [16, 8, 8]
    assert shown["config"]["lr"] == 3e-4
    assert shown["settings"]["augment"] == "quantile"
    assert not (tmp_path / "run").exists()


def test_resume_extends_a_run(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    result = dom2("fit", "--resume", tmp_path / "run", "--updates", 5)
    assert result.exit_code == 0, result.output
    assert checkpoint.updates(tmp_path / "run") == 5
    assert dom2("fit", "--resume", tmp_path / "run").exit_code == 0  # nothing left to do
    fewer = dom2("fit", "--resume", tmp_path / "run", "--updates", 4)
    assert (fewer.exit_code, "at least the 5 updates" in fewer.stderr) == (2, True)
    for flag in (
        ("--print-config",),
        ("--force",),
        ("--out", "x"),
        ("--preset", "wide"),
        ("--dataset", "tag"),
    ):
        useless = dom2("fit", "--resume", tmp_path / "run", *flag)
        assert useless.exit_code == 2
        assert f"expected --resume without {flag[0]}" in useless.output
    streamed = dom2("fit", "--resume", tmp_path / "run", "--data", "stream")
    assert (streamed.exit_code, "which draws other minibatches" in streamed.stderr) == (2, True), (
        streamed.output
    )
    mapped = dom2("fit", "--resume", tmp_path / "run", "--data", "mapped", "--updates", 6)
    assert (mapped.exit_code, checkpoint.updates(tmp_path / "run")) == (0, 6), mapped.output
    refused = dom2("fit", "--resume", tmp_path / "run", "--eta", 1)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "--eta" in refused.stderr


def test_default_folder_counts_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny-random-v0-dom2", "tiny-random-v0-dom2-2"):
        assert dom2("fit", "--dataset", tag_random(), "--updates", 1, *SMALL).exit_code == 0
        assert (tmp_path / "runs" / name / "config.json").exists()


USAGE = {
    "no dataset": (["fit"], "expected --dataset ID"),
    "unknown dataset": (["fit", "--dataset", "tag-mediun"], "dom2/tag-mediun"),
    "unknown algorithm": (["fit", "--algorithm", "dom3"], "expected an algorithm (dom2,"),
    "unknown flag": (["fit", "--etta", "1"], "--eta"),
    "bad value": (["fit", "--eta", "much"], "expected number, found 'much'"),
    "bad choice": (["fit", "--grid", "cosine"], "expected uniform|quadratic|logsnr"),
    "no updates": (["fit", "--dataset", "TAG", "--updates", "0"], "updates: expected 1 or more, found 0"),
    "bad setting": (["fit", "--dataset", "TAG", "--rho", "7"], "rho in [0, 1]"),
    "not a run": (["evaluate", "nowhere"], "expected a run folder"),
    "shift": (["evaluate", "RUN", "--shift", "ice"], "expected a shift of tag (none, speed, "),
    "unknown command": (["fti"], "did you mean fit"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_are_short_and_exit_with_2(case: str, tmp_path: Path) -> None:
    args, message = USAGE[case]
    if "RUN" in args:
        fit(tmp_path / "RUN")
    result = dom2(*(tag_random() if a == "TAG" else tmp_path / "RUN" if a == "RUN" else a for a in args))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


def test_an_existing_run_needs_force(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    for name in (tag_random(), "not-made-yet"):  # which comes second
        refused = fit(tmp_path / "run", "--dataset", name)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert "--force replaces it" in refused.stderr
    assert fit(tmp_path / "run", "--force").exit_code == 0


def test_changed_data_exits_with_3(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    found = run.read(tmp_path / "run")
    found.document["dataset"]["hash"] = "0" * 64
    found.amend(updates=4)
    assert dom2("fit", "--resume", tmp_path / "run").exit_code == 3


def test_every_shift_beside_the_standard(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    result = dom2("evaluate", tmp_path / "run", "--shift", "all", "--episodes", 2)
    assert result.exit_code == 0, result.output
    names = ["none", *shifts.applying("tag")]
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert rows[-len(names) :] == names
    assert sorted(p.name for p in (tmp_path / "run").glob("evaluation*.json")) == sorted(
        ["evaluation.json", *(f"evaluation-{name}.json" for name in names[1:])]
    )
    listed = json.loads(
        dom2("evaluate", tmp_path / "run", "--shift", "all", "--episodes", 2, "--json").stdout
    )
    assert [each["shift"] for each in listed] == names


def test_another_environment_exits_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For evaluate, resume and a new run alike; allowed, the documents say so."""
    fit(tmp_path / "run")
    monkeypatch.setitem(physics.PHYSICS, "damping", 0.5)
    for args in (
        ("evaluate", tmp_path / "run", "--episodes", 2),
        ("fit", "--resume", tmp_path / "run", "--updates", 5),
        ("fit", "--dataset", tag_random(), "--out", tmp_path / "new", "--updates", 3, *SMALL),
    ):
        refused = dom2(*args)
        assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1), refused.output
        assert "damping = 0.25, found 0.5" in refused.stderr
        assert not (tmp_path / "new").exists()
        allowed = dom2(*args, "--allow-mismatch")
        assert allowed.exit_code == 0, allowed.output
    noted = [{"fact": "damping", "expected": 0.25, "found": 0.5}]
    for file in ("run/evaluation.json", "run/config.json", "new/config.json"):
        assert json.loads((tmp_path / file).read_text())["mismatch"] == noted


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    script = "from dom2_cli.learn import main; main()"
    command = [sys.executable, "-c", script, "fit", "--resume", str(tmp_path / "run"), "--updates", "100000"]
    process = subprocess.Popen(
        [*command, "--checkpoint-every", "1"], preexec_fn=heeds_interrupts, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while checkpoint.updates(tmp_path / "run") < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"dom2 fit --resume {tmp_path / 'run'} continues" in errors.decode()
    assert run.read(tmp_path / "run").status == "interrupted"


def test_doctor_exits_0_here() -> None:
    assert dom2("doctor").exit_code == 0
    assert json.loads(dom2("doctor", "--json").stdout)["problems"] == []


def test_help_lists_every_setting() -> None:
    text = dom2("fit", "--help").stdout
    for flag in ("--updates", "--seeds", "--augment", "--eta", "--zeta", "--grid", "--q-action"):
        assert flag in text
    unbroken = re.sub(r"\s", "", text)  # lines break at hyphens
    assert all(f"{name}," in unbroken for name in algorithms.ALGORITHMS)


@pytest.mark.parametrize(
    ("words", "updates"),
    [((), 2500), (("--algorithm", "omar"), 4000), (("--preset", "wide"), 100_000), (("--updates", 7), 7)],
)
def test_a_run_is_as_long_as_those_of_the_results(words: tuple[Any, ...], updates: int) -> None:
    printed = dom2("fit", "--dataset", tag_random(), "--print-config", *words)
    assert json.loads(printed.stdout)["settings"]["updates"] == updates


def test_a_standard_dataset_that_is_not_there_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dom2data.plan.STEPS", 1250)
    args = ("fit", "--dataset", "tag-random", "--root", tmp_path, "--out", tmp_path / "run", "--updates", 1)
    first = dom2(*args, *SMALL)
    assert first.exit_code == 0, first.output
    assert "running dom2data generate --env tag --quality random" in first.stderr
    again = dom2(*args, *SMALL, "--force")
    assert again.exit_code == 0, again.output
    assert "running dom2data" not in again.stderr
    assert dom2("fit", "--dataset", "tag-random-v7", "--root", tmp_path).exit_code == 2


def test_a_run_that_ends_before_it_improves_says_so(tmp_path: Path) -> None:
    words = (
        "fit",
        "--dataset",
        tag_random(),
        "--algorithm",
        "ma-sfbc",
        "--updates",
        "2",
        "--batch-size",
        "8",
    )
    told = dom2(*words, "--out", str(tmp_path / "run"))
    assert told.exit_code == 0, told.output
    assert "ma-sfbc improves on cloning after update 2,000" in told.stderr
    other = dom2(*words, "--behaviour-updates", "1", "--bank", "8", "--out", str(tmp_path / "other"))
    assert "only clones" not in other.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--device", "cuda"],
        ["--graph", "true", "--device", "cpu"],
        ["--widths", "0,0,0"],
        ["--embed-dim", "0"],
        ["--critic-widths", ""],
        ["--lr", "inf"],
        ["--eta", "nan"],
    ],
    ids=" ".join,
)
def test_what_cannot_begin_replaces_nothing(tmp_path: Path, wrong: list[str]) -> None:
    if "cuda" in wrong and torch.cuda.is_available():
        pytest.skip("there is one")
    fit(tmp_path / "run")
    refused = fit(tmp_path / "run", "--force", *wrong)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1), refused.output
    assert checkpoint.updates(tmp_path / "run") == 3
    assert fit(tmp_path / "new", *wrong).exit_code == 2
    assert not (tmp_path / "new").exists()


def test_a_run_remembers_where_it_was_fitted(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert run.read(tmp_path / "run").settings.device == there


def test_states_of_runs_are_all_that_there_are() -> None:
    assert set(running.STATES) == set(typing.get_args(results.State))
    assert "'finished'" in dom2("runs", "--state", "finished").stderr
