"""What all cells of a table say together, and what is drawn of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dom2 import experiments, figures, tables
from dom2.experiments import Cell
from dom2.tables import Entry
from dom2data import scores

ENTRY = Entry(
    env="tag", quality="medium", fraction=1.0, label="dom2", shift="none", seeds=5, updates=10, episodes=2,
    per_seed=[10.0] * 5, mean=10.0, std=0.0, iqm=10.0, ci=[9.0, 11.0], score=7.4, score_std=0.0, data=100.0,
    data_score=54.9, paper=None, difference=None, training=None, folder="tag-medium/dom2",
    dataset="dom2/tag-medium-v0", hash="h", setup="s",
)  # fmt: skip


def another(mean: float, **changes: object) -> Entry:
    values: dict[str, Any] = {"mean": mean, "iqm": mean, "per_seed": [mean] * 5, "ci": [mean - 1, mean + 1]}
    values["folder"] = f"tag-medium/{changes.get('label', 'dom2')}"
    return dataclasses.replace(ENTRY, **values | changes)


def returned(score: float) -> float:
    return float(scores.denormalize("tag", score))


def test_wins_are_counted_plainly_and_where_intervals_say_so() -> None:
    listed = [
        another(10.0), another(5.0, label="bc"),
        another(10.0, quality="expert"), another(9.0, label="bc", quality="expert"),
        another(1.0, quality="random"), another(2.0, label="bc", quality="random", ci=None),
        another(9.0, label="dom2", quality="medium-expert"),
    ]  # fmt: skip
    counted = tables.wins(listed)
    assert counted == {
        "dom2": {"highest": 2, "certain": 1, "of": 3}, "bc": {"highest": 1, "certain": 0, "of": 3}
    }  # fmt: skip
    (row, *_) = tables.aggregate(listed)
    assert row["rows"] == 3  # medium-expert lacks a column and is left out
    assert row["wins"] == counted["dom2"]


def test_columns_that_have_every_row_are_averaged_without_those_that_lack_one() -> None:
    qualities = ("random", "medium", "expert")
    listed = [another(10.0, quality=each, label=label) for each in qualities for label in ("dom2", "bc")]
    found = {each["label"]: each for each in tables.aggregate([*listed, another(11.0, label="omar")])}
    assert {label: each["rows"] for label, each in found.items()} == {"dom2": 3, "bc": 3, "omar": 0}
    assert (found["omar"]["mean"], found["omar"]["wins"]["of"]) == (None, 1)
    assert (found["omar"]["improvement"]["tasks"], found["omar"]["improvement"]["mean"]) == (1, 0.0)
    assert found["omar"]["wins"]["highest"] == 1
    leads = {label: each["lead"] for label, each in found.items()}
    assert (leads["dom2"], leads["bc"]["mean"], leads["omar"]["tasks"]) == (None, 0.0, 1)
    point = float(scores.normalize("tag", 11.0) - scores.normalize("tag", 10.0))
    assert leads["omar"]["mean"] == pytest.approx(-point)
    # Without scores there is nothing to average, but wins and chances there are.
    bare = [dataclasses.replace(each, score=None) for each in listed]
    bare = [*bare, another(12.0, label="bc", quality="expert", score=None)]
    (row, other) = tables.aggregate(bare)
    assert (row["mean"], row["wins"]["highest"], other["improvement"]["tasks"]) == (None, 2, 3)
    assert other["lead"] is None


def test_what_the_augmentation_adds_has_an_interval() -> None:
    listed = [
        another(
            0.0, label=label, quality=quality, per_seed=[returned(score + step) for step in (-2, -1, 0, 1, 2)]
        )
        for quality in ("medium", "expert")
        for label, score in (("ma-cql", 40.0), ("ma-cql augmented", 50.0), ("dom2", 60.0))
    ]
    found = tables.effects(listed)  # DOM2 has no run without it
    assert {each["fraction"] for each in found} == {1.0}
    assert [(each["column"], each["data"]) for each in found] == [
        ("ma-cql", "tag-medium"), ("ma-cql", "tag-expert"), ("ma-cql", "all 2")
    ]  # fmt: skip
    for each in found:
        assert each["difference"] == pytest.approx(10.0)
        assert 7.0 < each["ci"][0] < 10.0 < each["ci"][1] < 13.0
    wide, narrow = (each["ci"][1] - each["ci"][0] for each in found[1:])
    assert narrow < wide


def test_a_sweep_is_drawn_in_the_order_of_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        figures, "sweep", lambda mine, values, rows: asked.append(values) or figures.canvas()[0]
    )
    labels = ("eta 20.0", "eta 0.5", "eta 4.0", "n_steps 10", "n_steps 5")
    listed = [another(10.0, label=label, quality=quality)
              for label, quality in zip(labels, ("medium", "medium-replay") * 3, strict=False)]  # fmt: skip
    assert len(figures.sweeps(listed)) == 2
    assert asked == [["0.5", "4.0", "20.0"], ["5", "10"]]
    monkeypatch.undo()
    unscored = [dataclasses.replace(each, env="spread-6-landmarks") for each in listed]
    assert len(figures.sweeps(unscored)) == 2  # nothing stands in for a score that there is not


def test_shifts_and_shares_of_the_trajectories_are_not_averaged_together() -> None:
    listed = [
        another(10.0), another(5.0, label="bc"),
        another(3.0, shift="speed"), another(4.0, label="bc", shift="speed"),
        another(8.0, fraction=0.05), another(7.0, label="bc", fraction=0.05),
    ]  # fmt: skip
    found = {(e["shift"], e["fraction"], e["label"]): e for e in tables.aggregate(listed)}
    assert len(found) == 6
    assert {each["rows"] for each in found.values()} == {1}
    assert [found[key]["wins"]["highest"] for key in (("none", 1.0, "bc"), ("speed", 1.0, "bc"))] == [0, 1]
    assert found["none", 0.05, "dom2"]["wins"] == {"highest": 1, "certain": 0, "of": 1}
    assert found["none", 0.05, "bc"]["mean"] == pytest.approx(found["none", 0.05, "bc"]["iqm"])
    assert len({each["mean"] for each in found.values()}) == 6
    assert [title for title, _ in figures.profiles(listed)] == [
        "Performance profiles, 1 dataset, standard environment",
        "Performance profiles, 1 dataset, shift speed",
        "Performance profiles, 1 dataset, standard environment, 5 % of the trajectories",
    ]


def test_columns_that_are_one_run_win_together() -> None:
    one, same, other = (
        another(10.0),
        another(10.0, folder="tag-medium/dom2", label="eta 4.0"),
        another(5.0, label="bc"),
    )
    assert tables.best({each.label: each for each in (one, same, other)}) == (["dom2", "eta 4.0"], True)


def test_figure_5_averages_the_same_datasets_at_every_share_for_every_column() -> None:
    listed = [
        another(returned(1.0), quality="random", fraction=0.05), another(returned(2.0), quality="random"),
        another(returned(110.0), quality="expert"),  # which has no 5 % yet
        another(returned(3.0), label="bc", quality="random"),
    ]  # fmt: skip
    lines, whole = figures.averaged(listed)
    means = {label: {share: round(mean, 6) for share, (mean, *_) in each.items()}
             for label, each in lines.items()}  # fmt: skip
    assert means == {"bc": {1.0: 3.0}, "dom2": {0.05: 1.0, 1.0: 2.0}}
    assert whole == ["random"]
    assert [title for title, _ in figures.fractions(listed)] == ["tag: fewer trajectories, random"]
    medium = [another(returned(50.0), quality="medium", fraction=share) for share in (0.05, 1.0)]
    assert figures.averaged(listed + medium) == figures.averaged(listed)  # bc has no medium
    assert figures.averaged([]) == ({}, [])
    assert figures.fractions([]) == []


def test_published_numbers_are_compared_in_their_own_unit() -> None:
    scored, paid = (
        tables.cited(Cell("tag", "medium", label, label), "none", per_seed, target)
        for label, per_seed, target in (
            ("bc", [returned(20.0), returned(40.0)], "comparison"),
            ("omar", [100.0, 110.0], "table1"),
        )
    )
    assert scored == {
        "paper": {"mean": 22.5, "std": 1.8, "unit": "score"},
        "difference": pytest.approx(30.0 - 22.5),
    }
    assert paid["difference"] == pytest.approx(105.0 - 116.9)
    # The figures are of returns.
    for found, expected in ((scored, returned(22.5)), (paid, 116.9)):
        assert figures.paper_return(another(0.0, paper=found["paper"])) == pytest.approx(expected)


def test_the_cost_of_a_shift_is_averaged_over_the_datasets_that_every_column_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [
        another(0.0, quality=quality, shift=shift, label=label, score=score)
        for quality, label, shift, score in (
            ("medium", "dom2", "none", 70.0), ("medium", "dom2", "speed", 40.0),
            ("medium", "bc", "none", 60.0), ("medium", "bc", "speed", 35.0),
            ("expert", "dom2", "none", 110.0), ("expert", "dom2", "speed", 60.0),
        )
    ]  # fmt: skip
    assert [title for title, _ in figures.gaps(listed)] == [
        "What shift speed costs (bars: mean of 1 dataset)"
    ]
    assert [title for title, _ in figures.gaps(listed[4:] + listed[2:4])] == [
        "What shift speed costs"  # each has a dataset of its own
    ]
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    ((_, drawn),) = figures.gaps(listed)
    dom2, dom2_mean, bc, bc_mean, _ = (list(line.get_xdata()) for line in drawn.axes[0].lines)
    assert (dom2, dom2_mean, bc, bc_mean) == ([-30.0, -50.0], [-30.0], [-25.0], [-25.0])


def test_scores_by_quality_are_of_tasks_that_every_column_has() -> None:
    listed = [
        another(10.0, env=env, quality=quality, label=label)
        for env in ("tag", "spread")
        for quality in ("medium", "expert")
        for label in ("dom2", "bc")
    ]
    assert [title for title, _ in figures.qualities(listed)] == ["By quality, averaged over spread, tag"]
    assert figures.qualities([each for each in listed if each.env == "tag"]) == []
    alone = [e for e in listed if (e.env, e.label) != ("tag", "bc")]
    assert figures.qualities(alone) == []


def test_as_many_lines_as_algorithms_look_different() -> None:
    names = experiments.COMPARED
    assert len({tuple(figures.line(name, names).values()) for name in names}) == len(names)


def test_columns_stay_in_order_when_the_first_row_lacks_one() -> None:
    listed = [another(1.0, label=label, quality="random") for label in ("bc", "dom2")]
    listed += [another(1.0, label=label) for label in ("bc", "ma-cql", "omar", "dom2", "late")]
    assert tables.labels(listed) == ["bc", "ma-cql", "omar", "dom2", "late"]
