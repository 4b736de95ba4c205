"""The numbers of a target: every cell beside the published one, and what all of them together say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dom2 import experiments, paper, statistics
from dom2.experiments import Cell
from dom2.jobs import Stage, setup, stage
from dom2.reproduce import Grid
from dom2.results import Fact, Result, agree, comparable, facts_of_data, last_best_mean, read
from dom2.statistics import Interval, Values
from dom2data import scores
from dom2data.errors import UserError


@dataclass(frozen=True)
class Entry:
    """A cell in one environment, standard or shifted. Means, deviations and intervals are over seeds."""

    env: str
    quality: str
    fraction: float
    label: str
    shift: str
    seeds: int
    updates: int
    episodes: int
    per_seed: list[float]
    """mean return of each seed's episodes, after the last update"""
    mean: float
    std: float
    iqm: float
    ci: Interval | None
    """of the iqm, 95 %, resampling seeds; None for fewer than ``statistics.LEAST_SEEDS``"""
    score: float | None
    """the mean, normalised by the published references"""
    score_std: float | None
    data: float
    """mean return of the data"""
    data_score: float | None
    paper: dict[str, Any] | None
    """``mean``, ``std``, and ``unit``, return or score"""
    difference: float | None
    """ours less the paper's, in that unit"""
    training: dict[str, float] | None
    """of evaluations while training, which are in the standard environment: ``results.last_best_mean``"""
    folder: str
    dataset: str
    hash: str
    setup: str
    """``jobs.setup`` of the run"""
    fingerprint: str = ""
    """of the environment; reports that do not know it leave it empty"""
    report: str | None = None
    """the earlier report that it is taken from; None where the run is here"""
    solutions: dict[str, dict[str, float]] | None = None
    """Figure 2: ``mean`` and ``std`` over seeds of what ``diversity.Solutions`` counts"""

    @property
    def row(self) -> tuple[str, str, float, str]:
        return self.env, self.quality, self.fraction, self.shift

    @property
    def per_seed_scores(self) -> Values | None:
        """[S]; None where ``score`` is."""
        return normalized(self.env, np.array(self.per_seed))


Earlier = Mapping[Cell, Sequence[Entry]]
"""Entries of cells, under all shifts or some, from reports written before."""


def entries(grid: Grid, earlier: Earlier | None = None) -> tuple[list[Entry], dict[Cell, Stage]]:
    """Entries of the cells that are done, here or in earlier reports, and how far the others are, of which
    an earlier report may know some shifts.

    Raises UserError (code 3) where they learned from different data or environments of one name.
    """
    jobs = {job.folder: job for job in grid.jobs()}
    stages = {folder: stage(job) for folder, job in jobs.items()}
    ready = {folder: setup(job) for folder, job in jobs.items() if stages[folder] == "done"}
    found = {folder: read(folder) for folder in ready}
    comparable(found.values())
    shifts, known = experiments.TARGETS[grid.target].shifts, earlier or {}
    listed: list[Entry] = []
    missing: dict[Cell, Stage] = {}
    for cell in grid.cells:
        folder = grid.folder(cell)
        if folder in ready:
            where = (str(folder.relative_to(grid.base)), ready[folder])
            listed += [entry(cell, found[folder], shift, grid.target, *where) for shift in shifts]
            continue
        listed += [
            replace(each, label=cell.label, **cited(cell, each.shift, each.per_seed, grid.target))
            for each in known.get(cell, ())
        ]
        if not whole(grid, known.get(cell)):
            missing[cell] = stages[folder]
    agree(fact for each in listed for fact in facts(grid, each))
    return listed, missing


def whole(grid: Grid, known: Sequence[Entry] | None) -> bool:
    """Whether a report knows a cell under every shift of the grid's target."""
    return {each.shift for each in known or ()} == set(experiments.TARGETS[grid.target].shifts)


def facts(grid: Grid, each: Entry) -> list[Fact]:
    """What entries of one table must agree in: which dataset a name stands for, and what is in it."""
    cell = Cell(each.env, each.quality, each.label, "", (), each.fraction)
    where = each.report or each.folder
    found = facts_of_data(grid.share(cell), each.dataset, each.hash, where)
    return [*found, (each.env, "fingerprint", each.fingerprint, where)] if each.fingerprint else found


def entry(cell: Cell, result: Result, shift: str, target: str, folder: str, its_setup: str) -> Entry:
    """One cell under one shift."""
    values = np.array(result.returns[shift])
    normal = normalized(cell.env, values)
    spread = statistics.spread(values[None], least=statistics.LEAST_SEEDS)
    level = result.dataset["return"]["mean"]
    return Entry(
        env=cell.env,
        quality=cell.quality,
        fraction=cell.fraction,
        label=cell.label,
        shift=shift,
        seeds=len(values),
        updates=result.updates,
        episodes=result.episodes[shift],
        per_seed=values.tolist(),
        **spread,
        score=None if normal is None else float(normal.mean()),
        score_std=None if normal is None else float(normal.std()),
        data=level,
        data_score=None if normal is None else float(scores.normalize(cell.env, level)),
        **cited(cell, shift, result.returns[shift], target),
        training=last_best_mean(result) if shift == "none" else None,
        folder=folder,
        dataset=result.dataset["id"],
        hash=result.dataset["hash"],
        setup=its_setup,
        fingerprint=result.fingerprint,
    )


def cited(cell: Cell, shift: str, per_seed: Sequence[float], target: str) -> dict[str, Any]:
    """``paper`` and ``difference`` of an entry: what the target's own table has for the cell."""
    published = paper.find(target, cell.env, cell.quality, shift, cell.label)
    if published is None:
        return {"paper": None, "difference": None}
    values, unit = np.array(per_seed), paper.TABLES[target].unit
    normal = normalized(cell.env, values)
    compared = values if unit == "return" or normal is None else normal
    difference = float(compared.mean()) - published.mean
    return {"paper": published._asdict() | {"unit": unit}, "difference": difference}


def normalized(env: str, values: Values) -> Values | None:
    """Scores by the published references; spread's for its variants there are none."""
    try:
        return scores.normalize(env, values)
    except UserError:
        return None


def labels(listed: Sequence[Entry]) -> list[str]:
    """Columns in the order of the rows, one that the first rows lack after its neighbour in a later one."""
    found: list[str] = []
    for row in rows(listed).values():
        place = 0
        for label in row:
            if label not in found:
                found.insert(place, label)
            place = found.index(label) + 1
    return found


def rows(listed: Sequence[Entry]) -> dict[tuple[str, str, float, str], dict[str, Entry]]:
    """Entries by row of the table, then by column."""
    found: dict[tuple[str, str, float, str], dict[str, Entry]] = {}
    for each in listed:
        found.setdefault(each.row, {})[each.label] = each
    return found


def best(row: dict[str, Entry]) -> tuple[list[str], bool]:
    """The columns of the highest mean, which are several where they are one run, and whether its interval
    lies above all others'."""
    first = max(row.values(), key=lambda each: each.mean)
    others = [each for each in row.values() if each.folder != first.folder]
    certain = bool(others) and all(
        first.ci is not None and each.ci is not None and first.ci[0] > each.ci[1] for each in others
    )
    return [label for label, each in row.items() if each.folder == first.folder], certain


def groups(listed: Sequence[Entry]) -> dict[tuple[str, float], list[Entry]]:
    """Entries by what is never averaged together: shift, and fraction of the trajectories."""
    found: dict[tuple[str, float], list[Entry]] = {}
    for each in listed:
        found.setdefault((each.shift, each.fraction), []).append(each)
    return found


def wins(listed: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """By column: rows in which its mean is the highest, and those in which the intervals say so.

    Only rows of two columns and more count; ``of`` is how many of them have the column.
    """
    counted = {label: {"highest": 0, "certain": 0, "of": 0} for label in labels(listed)}
    for row in rows(listed).values():
        if len(row) > 1:
            for label in row:
                counted[label]["of"] += 1
            first, certain = best(row)
            for label in first:
                counted[label]["highest"] += 1
                counted[label]["certain"] += certain
    return counted


def complete_rows(listed: Sequence[Entry]) -> list[dict[str, Entry]]:
    """The rows that have every column and scores: only these can be averaged for a fair comparison."""
    every = labels(listed)
    return scored(sharing(listed, every), every)


def sharing(listed: Sequence[Entry], columns: Sequence[str]) -> list[dict[str, Entry]]:
    """The rows that have all of these columns."""
    return [row for row in rows(listed).values() if all(label in row for label in columns)]


def scored(chosen: Sequence[dict[str, Entry]], columns: Sequence[str]) -> list[dict[str, Entry]]:
    """Those of the rows in which these columns have scores."""
    return [row for row in chosen if all(row[label].score is not None for label in columns)]


def fair(group: Sequence[Entry]) -> list[dict[str, Entry]]:
    """The rows that averages may be of: of the columns that every row has where there are two of them and
    more, else those that have every column. All of them have the same columns, and scores."""
    every = rows(group).values()
    whole = [label for label in labels(group) if all(label in row for row in every)]
    return complete_rows([each for each in group if each.label in whole] if len(whole) > 1 else group)


def samples(chosen: Sequence[dict[str, Entry]], label: str) -> list[Values]:
    """Normalised scores of a column's seeds, [S] for each row."""
    found = [row[label].per_seed_scores for row in chosen]
    return [values for values in found if values is not None]


def aggregate(listed: Sequence[Entry]) -> list[dict[str, Any]]:
    """For each group and column: the iqm of scores with its interval, over what is ``fair``, None for columns
    that are not part of it; the probability that DOM2 improves on the column, and its lead in score, over the
    rows that both have; and the column's wins."""
    found = []
    for (shift, fraction), group in groups(listed).items():
        chosen, won = fair(group), wins(group)
        for label in labels(group):
            values = samples(chosen, label) if chosen and label in chosen[0] else []
            found.append(
                {
                    "shift": shift,
                    "fraction": fraction,
                    "label": label,
                    "rows": len(values),
                    "mean": float(np.mean(np.concatenate(values))) if values else None,
                    "iqm": float(statistics.iqm(*values)) if values else None,
                    "ci": statistics.interval(statistics.iqm, values, least=statistics.LEAST_SEEDS)
                    if values
                    else None,
                    "improvement": improvement(group, label),
                    "lead": lead(group, label),
                    "wins": won[label],
                }
            )
    return found


def improvement(group: Sequence[Entry], label: str) -> dict[str, Any] | None:
    """``statistics.improvement`` of DOM2 on a column over the rows that both have; None where none has."""
    both = sharing(group, ("dom2", label))
    if label == "dom2" or not both:
        return None
    ours, theirs = ([np.array(row[each].per_seed) for row in both] for each in ("dom2", label))
    return statistics.improvement(ours, theirs)


def lead(group: Sequence[Entry], label: str) -> dict[str, Any] | None:
    """``statistics.lead`` of DOM2's scores over a column's, on the rows that both have scores on; None where
    there is none."""
    both = scored(sharing(group, ("dom2", label)), ("dom2", label))
    if label == "dom2" or not both:
        return None
    return statistics.lead(samples(both, "dom2"), samples(both, label))


AUGMENTED = (("ma-cql augmented", "ma-cql"), ("omar augmented", "omar"), ("dom2", "dom2 not augmented"))
"""Columns with the augmentation and without it."""


def effects(listed: Sequence[Entry]) -> list[dict[str, Any]]:
    """What the augmentation adds to a column's score: for each row that has both, and over all of them, the
    difference of means with its interval, resampling the seeds of both sides."""

    def difference(*sides: Values, axis: int = -1) -> Any:
        half = len(sides) // 2
        with_it, without = (statistics.average(*side, axis=axis) for side in (sides[:half], sides[half:]))
        return with_it - without

    found = []
    for group in groups(listed).values():
        for pair in AUGMENTED:
            both = scored(sharing(group, pair), pair)
            for chosen in [*([row] for row in both), *([both] if len(both) > 1 else [])]:
                sides = [*samples(chosen, pair[0]), *samples(chosen, pair[1])]
                one = chosen[0][pair[0]]
                found.append(
                    {
                        "column": pair[0].removesuffix(" augmented"),
                        "data": f"{one.env}-{one.quality}" if len(chosen) == 1 else f"all {len(chosen)}",
                        "shift": one.shift,
                        "fraction": one.fraction,
                        "difference": float(difference(*sides)),
                        "ci": statistics.interval(difference, sides, least=statistics.LEAST_SEEDS),
                    }
                )
    return found


def document(
    grid: Grid, listed: Sequence[Entry], missing: Mapping[Cell, Stage], command: str
) -> dict[str, Any]:
    """Everything that a report is made of, as JSON."""
    table = paper.TABLES.get(grid.target)
    return {
        "schema": 1,
        "target": grid.target,
        "title": experiments.TARGETS[grid.target].title,
        "scale": grid.scale_name,
        "smoke": grid.scale_name == "smoke",
        "preset": asdict(grid.scale),
        "command": command,
        "paper": {"source": table.source, "notes": list(table.notes), "unit": table.unit} if table else None,
        "entries": [asdict(each) for each in listed],
        "reports": sorted({each.report for each in listed if each.report}),
        "missing": {f"{cell.data} {cell.label}": stage for cell, stage in missing.items()},
        "aggregate": aggregate(listed),
        "effects": effects(listed),
    }
