"""Results for a grid from earlier reports: returns of runs whose folders are elsewhere or deleted.

A report's JSON keeps what a table needs of each cell. A table can therefore be made in parts, on several
machines or one after another, from files that are small enough to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dom2 import experiments
from dom2.diversity import Solutions
from dom2.experiments import Cell
from dom2.jobs import setup
from dom2.reproduce import Grid
from dom2.results import agree, facts_of_data
from dom2.tables import Entry, facts, whole
from dom2data import dataset as datasets
from dom2data.errors import CHECK_FAILED, UserError, told


def read(file: Path) -> list[Entry]:
    """Read the entries of a report. Raises UserError (code 3) if the file is something else."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
        names = {field.name for field in fields(Entry)}
        listed = [Entry(**{k: v for k, v in each.items() if k in names}) for each in document["entries"]]
        for each in listed:
            _sound(each)
        return [
            replace(
                each,
                report=each.report or file.name,
                training=_training(each),
                solutions=_solutions(each.solutions),
            )
            for each in listed
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: expected a report's JSON of `dom2 reproduce`, found {told(error)}; name another file",
            CHECK_FAILED,
        ) from error


def _sound(each: Entry) -> None:
    """Raise ValueError or TypeError if values are not numbers or contradict each other."""
    values = np.array([float(value) for value in each.per_seed])
    numbers = (each.mean, each.std, each.iqm, each.data, *(each.ci or ()))
    fits = np.allclose((values.mean(), values.std()), (each.mean, each.std))
    if not (np.isfinite(numbers).all() and fits and len(each.ci or (0, 0)) == 2):
        raise ValueError(f"per_seed {each.per_seed} of mean {each.mean}, std {each.std}, ci {each.ci}")


def lost(before: str, document: Mapping[str, Any]) -> int:
    """Count a report's entries that its replacement lacks; they may exist nowhere else."""
    try:
        old = json.loads(before)["entries"]
        cells, there = ({_cell(each) for each in listed} for listed in (old, document["entries"]))
    except (ValueError, KeyError, TypeError):  # no report
        return 0
    return len(cells - there)


def _cell(each: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(each[name] for name in ("env", "quality", "fraction", "label", "shift"))


def _training(each: Entry) -> dict[str, float] | None:
    """Drop the training of shifted rows and a "last five" of only five, both of which older reports have."""
    if each.shift != "none" or each.training is None:
        return None
    five = "evaluations" not in each.training
    return {name: value for name, value in each.training.items() if not (five and name == "last five")}


def _solutions(counts: dict[str, Any] | None) -> dict[str, Any] | None:
    return counts and {name: Solutions(**counts[name])._asdict() for name in ("mean", "std")}


def known(grid: Grid, reports: Sequence[Path]) -> tuple[dict[Cell, list[Entry]], int]:
    """Find the reports' entries for the cells, under any label, for those shifts of the grid's target that
    they have. If two reports have the same entry, the later report's is used.

    Also return how many cells were left out because their runs were made with other settings, updates,
    seeds or episodes than the grid asks for. Raises UserError like ``read``.
    """
    shifts = experiments.TARGETS[grid.target].shifts
    jobs = {job.folder: job for job in grid.jobs()}
    asked: dict[tuple[Any, ...], Path] = {}
    labelled: dict[tuple[Any, ...], Cell] = {}
    for cell in grid.cells:
        job = jobs[grid.folder(cell)]
        made = (setup(job), job.settings["updates"], job.settings["seeds"], job.episodes)
        data = cell.env, cell.quality, cell.fraction
        asked[*data, made], labelled[*data, cell.label] = job.folder, cell
    found: dict[Path, dict[str, Entry]] = {}  # by run, which several cells may share
    other = set()
    for each in (each for file in reports for each in read(file) if each.shift in shifts):
        data, made = each.row[:3], (each.setup, each.updates, each.seeds, each.episodes)
        if folder := asked.get((*data, made)):
            found.setdefault(folder, {})[each.shift] = each
        elif otherwise := labelled.get((*data, each.label)):
            other.add(otherwise)
    ordered = {folder: [by[s] for s in shifts if s in by] for folder, by in found.items()}
    kept = {cell: ordered[folder] for cell in grid.cells if (folder := grid.folder(cell)) in ordered}
    return kept, len(other - kept.keys())


def check(grid: Grid, known: Mapping[Cell, Sequence[Entry]]) -> None:
    """Raise UserError (code 3), naming both, if a report is of other data or another environment than the
    datasets here from which the remaining cells would be made. These datasets must exist."""
    found = [fact for entries in known.values() for each in entries for fact in facts(grid, each)]
    for name in dict.fromkeys(grid.share(cell) for cell in grid.cells if not whole(grid, known.get(cell))):
        data = datasets.open(name, grid.root)
        found += facts_of_data(name, data.id, data.hash, data.id)
        found.append((data.env, "fingerprint", data.spec.fingerprint, data.id))
    agree(found)
