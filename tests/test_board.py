"""States of run folders, the numbers of a grid, and its report as a reader sees it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import dom2
from edited import ANYTHING, places, replaced
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import Page
from PIL import Image
from tiny import new_run

from dom2 import board, earlier, evaluate, experiments, figures, fit, jobs, reproduce, results, run, tables
from dom2.experiments import SCALES, Cell, Scale
from dom2.reproduce import Grid
from dom2_cli.learn import main
from dom2data import dataset, executors, scores
from dom2data.errors import UserError

WIDTHS = (("actor_widths", (8, 8)),)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Three columns on one dataset, the third of which is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", Scale("compact", 3, 16, {"": 6}, {"": 3}, 2, steps=1250))
        cells = [Cell("tag", "random", name, name, WIDTHS) for name in ("bc", "ma-cql")]
        cells.append(Cell("tag", "random", "omar", "omar", WIDTHS))
        asked = Grid("table2", "smoke", tuple(cells), 3, tmp_path_factory.mktemp("board"))
        reproduce.prepare(asked)
        assert all(o.word == "done" for o in jobs.carry_out(asked.jobs()[:2], executors.Local()))
        yield asked


def test_states_of_folders(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    assert results.state(begun.folder) == "new"
    fit.fit(begun)
    assert results.state(begun.folder) == "complete"
    run.write(evaluate.file(begun.folder, "none"), json.dumps(evaluate.evaluate(begun, episodes=2)))
    assert results.state(begun.folder) == "evaluated"
    begun.status = "running"  # killed after its last checkpoint
    assert results.state(begun.folder) == "evaluated"
    kept = evaluate.file(begun.folder, "none").read_text()
    evaluate.file(begun.folder, "none").write_text("")
    assert results.state(begun.folder) == "broken"
    with pytest.raises(UserError, match=r"evaluation\.json: expected an evaluation"):
        results.read(begun.folder)
    evaluate.file(begun.folder, "none").write_text(kept)
    begun.status = "complete"
    begun.amend(updates=6)
    assert results.state(begun.folder) == "interrupted"
    begun.status = "running"
    assert results.state(begun.folder) == "killed"
    with FileLock(begun.folder / ".lock"):
        assert results.state(begun.folder) == "running"
    (begun.folder / "config.json").write_text('{"schema": 1')
    assert results.state(begun.folder) == "broken"
    (begun.folder / "config.json").unlink()
    assert results.state(begun.folder) == "broken"  # a checkpoint without its description
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("x")
    assert results.state(tmp_path / "notes") == "foreign"
    assert list(results.scan(tmp_path)) == [tmp_path / "notes", tmp_path / "run"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> run.Run:
    begun = new_run(tmp_path_factory.mktemp("edited") / "run")
    fit.fit(begun)
    evaluate.keep(begun.folder, evaluate.evaluate(begun, episodes=2))
    return begun


@pytest.mark.parametrize("name", ["config.json", "evaluation.json", "metrics.jsonl", "status"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_run_that_somebody_has_edited_is_listed(name: str, data: st.DataObject, evaluated: run.Run) -> None:
    """As broken, foreign, or with what it says; the others are listed beside it."""
    file = evaluated.folder / name
    intact = file.read_text()
    if name.endswith("json"):
        document = json.loads(intact)
        text = json.dumps(
            replaced(document, data.draw(st.sampled_from(places(document))), data.draw(ANYTHING))
        )
    else:
        text = data.draw(
            st.sampled_from(["", "1\n", "{}\n", "complete", '{"update": 2}\n', "[1]\n" + intact])
        )
    file.write_text(text)
    try:
        listed = dom2("runs", evaluated.folder.parent)
        assert listed.exit_code == 0, (text[:2000], listed.output, listed.exception)
        assert str(evaluated.folder) in listed.output
    finally:
        file.write_text(intact)


def test_a_folder_with_a_configuration_of_something_else_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert results.state(tmp_path) == "foreign"


def test_an_evaluation_of_fewer_updates_is_not_a_result(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    fit.fit(begun)
    run.write(evaluate.file(begun.folder, "none"), json.dumps(evaluate.evaluate(begun, episodes=2)))
    assert set(results.read(begun.folder).returns) == {"none"}
    begun.amend(updates=6)
    fit.fit(begun)
    assert results.read(begun.folder).returns == {}
    assert results.state(begun.folder) == "complete"


@pytest.mark.parametrize("what", ["hash", "fingerprint"])
def test_other_data_or_another_environment_is_refused_by_name(tmp_path: Path, what: str) -> None:
    one = results.read(new_run(tmp_path / "one").folder)
    data = one.dataset | {"hash": "f" * 64} if what == "hash" else one.dataset
    other = dataclasses.replace(
        one, folder="two", dataset=data, fingerprint="0" * 64 if what == "fingerprint" else one.fingerprint
    )
    results.comparable([one, one])
    with pytest.raises(UserError, match=f"expected one {what}, .*{one.folder}.* in two") as refused:
        results.comparable([one, other])
    assert refused.value.code == 3


def test_entries_are_what_the_runs_evaluated_to(made: Grid) -> None:
    listed, missing = tables.entries(made)
    assert [(each.label, each.shift) for each in listed] == [
        ("bc", "none"), ("bc", "speed"), ("ma-cql", "none"), ("ma-cql", "speed")
    ]  # fmt: skip
    assert [(cell.label, stage) for cell, stage in missing.items()] == [("omar", "missing")]
    kept = json.loads((made.folder(made.cells[1]) / "evaluation-speed.json").read_text())
    cell = listed[3]
    assert cell.per_seed == [seed["mean"] for seed in kept["per_seed"]]
    assert cell.std == pytest.approx(np.std(cell.per_seed))
    level = dataset.open(cell.dataset).returns.mean()
    assert cell.data == pytest.approx(level, rel=1e-6)
    assert (cell.score, cell.data_score) == pytest.approx(
        scores.normalize("tag", np.array([cell.mean, level]))
    )
    assert cell.score_std == pytest.approx(cell.std * 100 / (185.6 + 4.1))
    assert cell.paper == {"mean": 1.8, "std": 5.7, "unit": "return"}  # Table 2, tag, random, MA-CQL
    assert cell.difference == pytest.approx(cell.mean - 1.8)
    assert cell.training is None  # evaluations while training are in the standard environment
    training = listed[2].training
    assert training is not None
    assert training["best"] >= training["last"]
    assert (training["evaluations"], "last five" in training) == (2, False)
    assert listed[0].paper is None  # the paper has no BC


def test_training_evaluations_are_last_best_and_mean() -> None:
    found = results.last_best_mean(
        dataclasses.replace(RESULT, curve={"updates": [1, 2], "returns": [[1.0, 9.0], [3.0, 5.0]]})
    )
    assert found == {"last": 4.0, "best": 6.0, "evaluations": 2}
    six = {"updates": [*range(6)], "returns": [[float(i), 2.0 * i] for i in range(6)]}
    found = results.last_best_mean(dataclasses.replace(RESULT, curve=six))
    assert found == {"last": 7.5, "best": 7.5, "last five": 4.5, "evaluations": 6}
    assert results.last_best_mean(RESULT) is None


RESULT = results.Result(
    "r", "evaluated", "bc", {}, "", [0, 1], 2, {}, {}, {}, {}, {}, [], {"updates": [], "returns": []}
)


@pytest.fixture(scope="module")
def written(made: Grid, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return board.write(made, "dom2 reproduce table2", tmp_path_factory.mktemp("report"))


def test_report_is_one_file_with_everything_in_it(written: dict[str, Path]) -> None:
    text = written["html"].read_text()
    found = Page(text)
    assert found.open == []
    assert found.links
    assert all(link.startswith("data:image/") for link in found.links)
    assert "Its numbers mean nothing" in text
    assert "1 cell is missing" in text
    assert "1.8 ± 5.7" in text
    markdown = written["md"].read_text()
    assert "Its numbers mean nothing" in markdown
    lines = [line.split(" |") for line in markdown.splitlines() if re.match(r"\| (bc|ma-cql) \|", line)]
    assert [len(line) for line in lines] == [3] * 4  # two columns on random, standard and shifted
    document = json.loads(written["json"].read_text())
    assert document["missing"] == {"tag-random omar": "missing"}
    assert "- no run: tag-random omar\n" in markdown
    assert "<li>no run: tag-random omar</li>" in text
    assert "no recorded fingerprint" not in text
    assert {each["label"] for each in document["aggregate"]} == {"bc", "ma-cql"}


def test_a_table_marks_the_best_of_each_quality(made: Grid) -> None:
    """Three algorithms down, two qualities across, of which one is not measured everywhere."""
    listed, _ = tables.entries(made)
    one = next(each for each in listed if each.shift == "none")

    def cell(label: str, quality: str, mean: float, ci: tuple[float, float]) -> tables.Entry:
        return dataclasses.replace(
            one, label=label, quality=quality, mean=mean, ci=ci, folder=label, paper=None
        )

    cells = [cell("bc", "random", 1.0, (0.0, 2.0)), cell("omar", "random", 3.0, (1.5, 4.0)),
             cell("bc", "medium", 5.0, (4.0, 6.0)), cell("omar", "medium", 9.0, (7.0, 11.0)),
             cell("dom2", "medium", 2.0, (1.0, 3.0))]  # fmt: skip
    (matrix,) = board.matrices(cells)
    assert [quality for quality, _ in matrix.qualities] == ["random", "medium"]
    marks = {label: [each and (each.mean, mark) for each, mark in row] for label, row in matrix.rows}
    assert marks == {
        "bc": [(1.0, ""), (5.0, "")],
        "omar": [(3.0, "best"), (9.0, "certain")],
        "dom2": [None, (2.0, "")],
    }
    document = {
        "paper": None,
        "title": "t",
        "smoke": False,
        "scale": "compact",
        "command": "c",
        "missing": {},
    }
    document |= {"reports": [], "aggregate": [], "effects": [], "entries": []}
    text = board.render("board.md", board.Board(document, [matrix], [], [], []))
    rows = [line for line in text.splitlines() if line.startswith(("| omar", "| dom2"))]
    assert rows[0].count("**") == 4
    assert (rows[0].count("\\*"), rows[1].split(" | ")[1]) == (1, "–")


def test_solutions_are_counted_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 2, on uniform data, which need no policies."""
    monkeypatch.setitem(SCALES, "smoke", Scale("compact", 1, 16, {"": 4}, {"": 2}, 1, steps=1250))
    cells = (Cell("spread-6-landmarks", "random", "bc", "bc", WIDTHS),)
    asked = Grid("figure2", "smoke", cells, 1, tmp_path)
    reproduce.prepare(asked)
    assert [outcome.word for outcome in jobs.carry_out(asked.jobs(), executors.Local())] == ["done"]
    files = board.write(asked, "dom2 reproduce figure2", tmp_path)
    text = files["html"].read_text()
    assert "Solutions found" in text
    assert text.count('width="120"') == 2 * 4  # of BC's ends, and of chance's
    assert "Trained agents" in text
    assert "| bc on spread-6-landmarks-random-smoke-v0 |" in files["md"].read_text()
    document = json.loads(files["json"].read_text())
    assert {each["shift"] for each in document["entries"]} == {"none", "dismiss"}
    assert all(each["score"] is None for each in document["entries"])  # no references are published
    assert [(each["label"], each["mean"]) for each in document["aggregate"]] == [("bc", None), ("bc", None)]
    cloned, chance = (each["mean"] for each in document["solutions"].values())
    assert cloned["effective"] == cloned["distinct"] == 1.0  # it acts without noise
    assert 2.0 < chance["effective"] <= chance["distinct"] <= 16.0
    assert figures.gaps(tables.entries(asked)[0]) == []  # nor has a shift a cost in scores
    shutil.rmtree(asked.base)
    known, _ = earlier.known(asked, [files["json"]])
    later = board.write(asked, "dom2 reproduce figure2", tmp_path / "later", known)
    assert json.loads(later["json"].read_text())["solutions"] == document["solutions"]
    assert later["html"].read_text().count('width="120"') == 4  # of chance's


def test_an_empty_grid_has_a_report_that_says_so(tmp_path: Path) -> None:
    cells = tuple(experiments.cells("figure6", ["tag-medium"]))
    files = board.write(Grid("figure6", "compact", cells, 5, tmp_path), "dom2 reproduce figure6", tmp_path)
    assert "No cell is done yet" in files["html"].read_text()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
@pytest.mark.parametrize("width", [400, 1200])
def test_report_in_a_browser(written: dict[str, Path], tmp_path: Path, width: int) -> None:
    """The page draws, and nothing is wider than a phone's screen."""
    probed, shot, profile = tmp_path / "probed.html", tmp_path / "shot.png", tmp_path / "profile"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    probe = "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth</script>"
    probed.write_text(written["html"].read_text().replace("</body>", f"{probe}</body>"))
    call = ["chromium", *quiet, f"--window-size={width},2000"]
    subprocess.run([*call, f"--screenshot={shot}", probed.as_uri()], check=True, capture_output=True)
    with Image.open(shot) as image:
        assert image.width == width
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 50
    dump = subprocess.run([*call, "--dump-dom", probed.as_uri()], check=True, capture_output=True)
    wide = re.search(r"<title>(\d+)/(\d+)</title>", dump.stdout.decode())
    assert wide is not None
    assert int(wide[1]) <= int(wide[2])


def test_commands_about_runs(made: Grid, tmp_path: Path) -> None:
    bc, cql = (str(made.folder(cell)) for cell in made.cells[:2])
    call = CliRunner().invoke
    listed = json.loads(call(main, ["runs", str(made.runs), "--algorithm", "bc", "--json"]).stdout)
    assert [(each["folder"], each["state"]) for each in listed] == [(bc, "evaluated")]
    assert "ma-cql" in call(main, ["runs", str(made.runs)]).stdout
    compared = json.loads(call(main, ["compare", bc, cql, "--json"]).stdout)
    assert [row["algorithm"] for row in compared] == ["bc", "ma-cql"]
    assert compared[0]["improvement"] is None
    assert 0.0 <= compared[1]["improvement"]["mean"] <= 1.0
    shifted = json.loads(call(main, ["compare", bc, cql, "--shift", "speed", "--json"]).stdout)
    assert shifted[0]["mean"] != compared[0]["mean"]
    assert "found 'bogus'" in call(main, ["compare", bc, cql, "--shift", "bogus"]).stderr
    refused = call(main, ["compare", bc, str(new_run(tmp_path / "new").folder)])
    assert refused.exit_code == 2
    assert "expected an evaluated run, found one that is new" in refused.stderr
    otherwise = shutil.copytree(bc, tmp_path / "otherwise")
    evaluate.keep(otherwise, evaluate.kept(otherwise)[0] | {"seed": 7})
    differ = call(main, ["compare", bc, str(otherwise)])
    assert (differ.exit_code, "expected one seed" in differ.stderr) == (3, True), differ.output
    video = tmp_path / "chase.gif"
    played = call(main, ["play", bc, "--video", str(video), "--episodes", "1", "--shift", "speed"])
    assert played.exit_code == 0, played.output
    with Image.open(video) as film:
        assert film.n_frames == 26
    assert call(main, ["play", bc, "--video", str(video)]).exit_code == 2
    assert "of a seed of the run (0, 1, 2), found 7" in call(main, ["play", bc, "--agents", "7"]).stderr


def test_a_films_returns_are_those_of_the_evaluation(made: Grid) -> None:
    """Row e of an evaluation by as many episodes is episode e of the film."""
    from dom2 import film

    found = run.read(made.folder(made.cells[0]))
    document = evaluate.evaluate(found, episodes=3)
    _, returns = film.frames(found, agents=1, episodes=3)
    assert returns == pytest.approx(document["per_seed"][1]["returns"])


def test_so_are_those_of_a_run_whose_seeds_begin_elsewhere(tmp_path: Path) -> None:
    from dom2 import film

    found = new_run(tmp_path / "run", seeds=2, seed=5)
    fit.fit(found)
    document = evaluate.evaluate(found, episodes=3)
    _, returns = film.frames(found, agents=6, episodes=3)
    assert returns == pytest.approx(document["per_seed"][1]["returns"])
