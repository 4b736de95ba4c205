"""The numbers of a target: every cell next to the published one, and aggregates over cells."""

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
    """95 % interval of the iqm, resampling seeds; None for fewer than ``statistics.LEAST_SEEDS``"""
    score: float | None
    """the mean, normalised by the published references"""
    score_std: float | None
    data: float
    """mean return of the data"""
    data_score: float | None
    paper: dict[str, Any] | None
    """the published ``mean``, ``std``, and ``unit``, return or score"""
    difference: float | None
    """our mean minus the paper's, in that unit"""
    training: dict[str, float] | None
    """``results.last_best_mean`` of evaluations while training, which are in the standard environment"""
    folder: str
    dataset: str
    hash: str
    setup: str
    """``jobs.setup`` of the run"""
    fingerprint: str = ""
    """of the environment; empty in reports without it"""
    report: str | None = None
    """the earlier report that the entry comes from; None if the run is here"""
    solutions: dict[str, dict[str, float]] | None = None
    """Figure 2: ``mean`` and ``std`` over seeds of ``diversity.Solutions``"""

    @property
    def row(self) -> tuple[str, str, float, str]:
        return self.env, self.quality, self.fraction, self.shift

    @property
    def per_seed_scores(self) -> Values | None:
        """Scores of the seeds [S]; None if ``score`` is None."""
        return normalized(self.env, np.array(self.per_seed))


Earlier = Mapping[Cell, Sequence[Entry]]
"""Entries of cells from earlier reports, under all shifts or some."""


def entries(grid: Grid, earlier: Earlier | None = None) -> tuple[list[Entry], dict[Cell, Stage]]:
    """Return the entries of cells that are done, here or in earlier reports, and the stages of the others.
    For those, an earlier report may still have entries under some of the shifts.

    Raises UserError (code 3) if entries come from different data or environments of one name.
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
    """Return whether a cell's entries cover every shift of the grid's target."""
    return {each.shift for each in known or ()} == set(experiments.TARGETS[grid.target].shifts)


def facts(grid: Grid, each: Entry) -> list[Fact]:
    """What entries of one table must agree on: a name's dataset, that dataset's hash, and the environment."""
    cell = Cell(each.env, each.quality, each.label, "", (), each.fraction)
    where = each.report or each.folder
    found = facts_of_data(grid.share(cell), each.dataset, each.hash, where)
    return [*found, (each.env, "fingerprint", each.fingerprint, where)] if each.fingerprint else found


def entry(cell: Cell, result: Result, shift: str, target: str, folder: str, its_setup: str) -> Entry:
    """Make the entry of one cell under one shift."""
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
    """Make an entry's ``paper`` and ``difference`` from the target's own published table."""
    published = paper.find(target, cell.env, cell.quality, shift, cell.label)
    if published is None:
        return {"paper": None, "difference": None}
    values, unit = np.array(per_seed), paper.TABLES[target].unit
    normal = normalized(cell.env, values)
    compared = values if unit == "return" or normal is None else normal
    difference = float(compared.mean()) - published.mean
    return {"paper": published._asdict() | {"unit": unit}, "difference": difference}


def normalized(env: str, values: Values) -> Values | None:
    """Scores by the published references; None without them, as for variants of spread."""
    try:
        return scores.normalize(env, values)
    except UserError:
        return None


def labels(listed: Sequence[Entry]) -> list[str]:
    """Columns in the order of the rows; a column missing from earlier rows comes after its left neighbour."""
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
    """Return the column with the highest mean (several if they share one run), and whether its interval lies
    above all others'."""
    first = max(row.values(), key=lambda each: each.mean)
    others = [each for each in row.values() if each.folder != first.folder]
    certain = bool(others) and all(
        first.ci is not None and each.ci is not None and first.ci[0] > each.ci[1] for each in others
    )
    return [label for label, each in row.items() if each.folder == first.folder], certain


def groups(listed: Sequence[Entry]) -> dict[tuple[str, float], list[Entry]]:
    """Group entries by shift and fraction of the trajectories, which are never averaged together."""
    found: dict[tuple[str, float], list[Entry]] = {}
    for each in listed:
        found.setdefault((each.shift, each.fraction), []).append(each)
    return found


def wins(listed: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Count, by column, the rows in which its mean is the highest and those in which intervals confirm it.

    Only rows with at least two columns count; ``of`` is the number of them that have the column.
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
    """Rows that have every column, with scores: only these can be averaged for a fair comparison."""
    every = labels(listed)
    return scored(sharing(listed, every), every)


def sharing(listed: Sequence[Entry], columns: Sequence[str]) -> list[dict[str, Entry]]:
    """Rows that have all of these columns."""
    return [row for row in rows(listed).values() if all(label in row for label in columns)]


def scored(chosen: Sequence[dict[str, Entry]], columns: Sequence[str]) -> list[dict[str, Entry]]:
    """Rows among ``chosen`` in which all of these columns have scores."""
    return [row for row in chosen if all(row[label].score is not None for label in columns)]


def fair(group: Sequence[Entry]) -> list[dict[str, Entry]]:
    """Rows for a fair average: all rows, cut to the columns that every row has, if these are at least two;
    else the rows that have every column. All have the same columns, with scores."""
    every = rows(group).values()
    whole = [label for label in labels(group) if all(label in row for row in every)]
    return complete_rows([each for each in group if each.label in whole] if len(whole) > 1 else group)


def samples(chosen: Sequence[dict[str, Entry]], label: str) -> list[Values]:
    """Normalised scores of a column's seeds, [S] for each row."""
    found = [row[label].per_seed_scores for row in chosen]
    return [values for values in found if values is not None]


def aggregate(listed: Sequence[Entry]) -> list[dict[str, Any]]:
    """For each group and column, compute the iqm of scores with its interval over the ``fair`` rows (None for
    columns that are not in them), the probability that DOM2 improves on the column and its lead in score over
    the rows that both have, and the column's wins."""
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
    """``statistics.improvement`` of DOM2 on a column over the rows that have both; None without such rows."""
    both = sharing(group, ("dom2", label))
    if label == "dom2" or not both:
        return None
    ours, theirs = ([np.array(row[each].per_seed) for row in both] for each in ("dom2", label))
    return statistics.improvement(ours, theirs)


def lead(group: Sequence[Entry], label: str) -> dict[str, Any] | None:
    """``statistics.lead`` of DOM2's scores over a column's, on the rows in which both have scores; None if
    there are no such rows."""
    both = scored(sharing(group, ("dom2", label)), ("dom2", label))
    if label == "dom2" or not both:
        return None
    return statistics.lead(samples(both, "dom2"), samples(both, label))


AUGMENTED = (("ma-cql augmented", "ma-cql"), ("omar augmented", "omar"), ("dom2", "dom2 not augmented"))
"""Pairs of columns with and without the augmentation."""


def effects(listed: Sequence[Entry]) -> list[dict[str, Any]]:
    """What the augmentation adds to a column's score: the difference of means with its interval, resampling
    the seeds of both sides, for each row with both columns and over all of these rows."""

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
    """The complete content of a report, as JSON."""
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
