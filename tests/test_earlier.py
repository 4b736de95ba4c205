"""Tables in parts: what an earlier report knows, where it is what is asked for, is not made again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from commands import dom2

from dom2 import board, earlier, jobs, reproduce, tables
from dom2.experiments import SCALES, Cell, Scale
from dom2.reproduce import Grid
from dom2data import executors
from dom2data.errors import UserError

TINY = Scale("compact", 3, 16, {"": 6}, {"": 3}, 2, steps=1250)
CELLS = tuple(Cell("tag", "random", name, name) for name in ("bc", "ma-td3+bc"))
QUICK = ("reproduce", "table2", "--scale", "smoke", "--only", "tag-random", "--algorithms", "bc,ma-td3+bc")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", TINY)
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one of two columns, whose runs are gone."""
    folder = tmp_path_factory.mktemp("earlier")
    asked = Grid("table2", "smoke", CELLS[:1], 3, folder / "runs")
    reproduce.prepare(asked)
    assert [o.word for o in jobs.carry_out(asked.jobs(), executors.Local())] == ["done"]
    report = board.write(asked, "dom2 reproduce table2", folder / "out")["json"]
    (folder / "runs").rename(folder / "elsewhere")
    return report


def changed(first: Path, folder: Path, **values: object) -> Path:
    """The report with something else in every entry."""
    document = json.loads(first.read_text())
    document["entries"] = [each | values for each in document["entries"]]
    file = folder / "changed.json"
    file.write_text(json.dumps(document))
    return file


def test_two_parts_make_the_whole_table(first: Path, tmp_path: Path) -> None:
    whole = Grid("table2", "smoke", CELLS, 3, tmp_path)
    known, other = earlier.known(whole, [first])
    assert list(known) == [CELLS[0]]
    assert other == 0
    listed, missing = tables.entries(whole, known)
    assert missing == {CELLS[1]: "missing"}
    before = json.loads(first.read_text())["entries"]
    assert [dataclasses.asdict(each) | {"report": None} for each in listed] == before
    assert {each.report for each in listed} == {"table2.json"}
    said = dom2(*QUICK, "--runs", tmp_path / "runs", "--earlier", first)
    assert said.exit_code == 0, said.output
    assert "1 in a report" in said.output
    assert not (tmp_path / "runs/smoke/tag-random/bc").exists()
    (written,) = (tmp_path / "runs/smoke").glob("table2-*.json")  # a part's: with what it is a part of
    document = json.loads(written.read_text())
    assert document["missing"] == {}
    assert document["reports"] == ["table2.json"]
    assert [(e["label"], e["shift"]) for e in document["entries"]] == [
        (name, shift) for name in ("bc", "ma-td3+bc") for shift in ("none", "speed")
    ]  # fmt: skip
    assert "from table2.json" in written.with_suffix(".html").read_text()
    again = Grid("table2", "smoke", CELLS, 3, tmp_path / "nothing")  # a report of a report names the first
    known, _ = earlier.known(again, [written])
    assert {e.label: e.report for entries in known.values() for e in entries} == {
        "bc": "table2.json", "ma-td3+bc": written.name
    }  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [{"updates": 7}, {"seeds": 2}, {"episodes": 4}, {"setup": "0123456789ab"}],
    ids=lambda v: next(iter(v)),
)
def test_what_was_made_otherwise_is_left_out_and_said(
    first: Path, tmp_path: Path, values: dict[str, object]
) -> None:
    file = changed(first, tmp_path, **values)
    asked = Grid("table2", "smoke", CELLS, 3, tmp_path)
    assert earlier.known(asked, [file]) == ({}, 1)
    said = dom2(*QUICK, "--runs", tmp_path, "--earlier", file, "--report-only")
    assert "1 cell of the earlier reports not used: made with other settings" in said.output


def test_published_numbers_are_of_the_table_that_is_made(first: Path, tmp_path: Path) -> None:
    asked = Grid("table1", "smoke", CELLS[:1], 3, tmp_path)
    file = changed(first, tmp_path, paper={"mean": 9.9, "std": 1.0, "unit": "score"}, difference=1.0)
    known, _ = earlier.known(asked, [file])
    listed, _ = tables.entries(asked, known)
    assert [(each.label, each.paper, each.difference) for each in listed] == [("bc", None, None)]


def test_half_a_cell_is_shown_and_made_all_the_same(first: Path, tmp_path: Path) -> None:
    document = json.loads(first.read_text())
    document["entries"] = [each for each in document["entries"] if each["shift"] == "none"]
    (tmp_path / "half.json").write_text(json.dumps(document))
    asked = Grid("table2", "smoke", CELLS[:1], 3, tmp_path)
    known, other = earlier.known(asked, [tmp_path / "half.json"])
    listed, missing = tables.entries(asked, known)
    assert [(each.label, each.shift) for each in listed] == [("bc", "none")]
    assert (missing, other) == ({CELLS[0]: "missing"}, 0)
    words = ("--runs", tmp_path, "--earlier", tmp_path / "half.json", "--dry-run")
    said = dom2(*QUICK[:-1], "bc", *words)
    assert "1 missing" in said.output, said.output


def test_a_report_that_alone_knows_a_cell_is_kept(first: Path, tmp_path: Path) -> None:
    words = (*QUICK, "--runs", tmp_path, "--report-only")
    assert "before" not in dom2(*words, "--earlier", first).stderr
    (report,) = (tmp_path / "smoke").glob("*.json")
    whole = report.read_text()
    said = dom2(*words)
    assert (said.exit_code, json.loads(report.read_text())["entries"]) == (0, [])
    (kept,) = (tmp_path / "smoke").glob("*-before-*.json")
    assert f"the previous report has 2 entries that this one lacks: its JSON is kept as {kept}" in said.stderr
    assert kept.read_text() == whole
    assert dom2(*words).exit_code == dom2(*words, "--earlier", kept).exit_code == 0  # nothing more is lost
    assert len(list((tmp_path / "smoke").glob("*.json"))) == 2
    assert len(json.loads(report.read_text())["entries"]) == 2


def test_other_bytes_and_other_files_are_refused(first: Path, tmp_path: Path) -> None:
    asked = Grid("table2", "smoke", CELLS, 3, tmp_path / "runs")
    other = changed(first, tmp_path, hash="f" * 64, label="ma-td3+bc", setup=jobs.setup(asked.jobs()[1]))
    known, _ = earlier.known(asked, [first, other])
    with pytest.raises(
        UserError, match=r"expected one hash, found .* in table2.json and ffffffffffff in changed.json"
    ):
        tables.entries(asked, known)
    broken = [json.loads(first.read_text()) for _ in range(6)]
    broken[0]["entries"][0]["training"] = 5
    broken[1]["entries"][0]["solutions"] = {"mean": {"distinct": 1.0}}
    edits = ({"per_seed": ["x", 1.0, 2.0]}, {"mean": 999.0}, {"ci": [1.0]}, {"std": float("nan")})
    for document, values in zip(broken[2:], edits, strict=True):
        document["entries"][0] |= values
    for text in ("[]", "{", '{"entries": [{"env": "tag"}]}', *map(json.dumps, broken)):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match="expected a report's JSON") as refused:
            earlier.known(asked, [tmp_path / "bad.json"])
        assert refused.value.code == 3


def test_other_bytes_are_refused_before_anything_is_fitted(first: Path, tmp_path: Path) -> None:
    asked = [*QUICK, "--runs", str(tmp_path / "runs"), "--earlier"]
    for what, words in (("hash", "one hash"), ("fingerprint", "one fingerprint")):
        file = changed(first, tmp_path, **{what: "f" * 16})
        said = dom2(*asked, file)
        assert said.exit_code == 3, said.output
        assert f"expected {words}, found ffffffffffffffff in changed.json" in said.output
        assert "in dom2/tag-random-smoke-v0" in said.output
        assert not (tmp_path / "runs").exists()


def test_a_report_of_another_target_serves_under_another_label(first: Path, tmp_path: Path) -> None:
    """The same run may be 'dom2' in one table and 'eta 2.0' in the next."""
    file = changed(first, tmp_path, label="as it is called there")
    known, other = earlier.known(Grid("table2", "smoke", CELLS, 3, tmp_path), [file])
    assert (list(known), other) == ([CELLS[0]], 0)


def test_what_a_report_knows_of_a_run_serves_every_cell_of_it(first: Path, tmp_path: Path) -> None:
    """Two columns of one run, such as a setting's usual value in two sweeps, and a report of one of them."""
    twin = dataclasses.replace(CELLS[0], label="clone")
    asked = Grid("table2", "smoke", (CELLS[0], twin), 3, tmp_path)
    known, other = earlier.known(asked, [first])
    assert (set(known), other) == ({CELLS[0], twin}, 0)
    listed, missing = tables.entries(asked, known)
    assert (sorted({each.label for each in listed}), missing) == (["bc", "clone"], {})
