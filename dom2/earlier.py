"""What earlier reports know of a grid: returns of runs whose folders are elsewhere, or no more.

A report's JSON keeps of each cell what a table needs. So a table can be made in parts, on several machines or
one after another, from files that are small enough to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from dom2 import experiments
from dom2.experiments import Cell
from dom2.jobs import setup
from dom2.reproduce import Grid
from dom2.tables import Entry
from dom2data.errors import CHECK_FAILED, UserError


def read(file: Path) -> list[Entry]:
    """The entries of a report. Raises UserError (code 3) when it is something else."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
        names = {field.name for field in fields(Entry)}
        listed = [Entry(**{k: v for k, v in each.items() if k in names}) for each in document["entries"]]
        return [replace(each, report=each.report or file.name, training=_training(each)) for each in listed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: expected a report's JSON of `dom2 reproduce`, found {type(error).__name__}: {error}; "
            "name another file",
            CHECK_FAILED,
        ) from error


def _training(each: Entry) -> dict[str, float] | None:
    """Older reports: shifted rows have none of their own, and five were all evaluations there were."""
    if each.shift != "none" or each.training is None:
        return None
    five = "evaluations" not in each.training
    return {name: value for name, value in each.training.items() if not (five and name == "last five")}


def known(grid: Grid, reports: Sequence[Path]) -> tuple[dict[Cell, list[Entry]], int]:
    """Entries of the cells that reports know under every shift of the grid's target;
    where two know a cell, the later one is believed.

    Also how many cells were left out because their runs were made otherwise: with other settings, updates,
    seeds or episodes than the grid asks for. Raises UserError like ``read``.
    """
    shifts = experiments.TARGETS[grid.target].shifts
    cells = {(cell.env, cell.quality, cell.fraction, cell.label): cell for cell in grid.cells}
    asked = {
        job.folder: (setup(job), job.settings["updates"], job.settings["seeds"], job.episodes)
        for job in grid.jobs()
    }
    found: dict[Path, dict[str, Entry]] = {}  # by run: several cells may be of one
    other = set()
    for each in (each for file in reports for each in read(file)):
        cell = cells.get((each.env, each.quality, each.fraction, each.label))
        if cell is None or each.shift not in shifts:
            continue
        folder = grid.folder(cell)
        if (each.setup, each.updates, each.seeds, each.episodes) == asked[folder]:
            found.setdefault(folder, {})[each.shift] = each
        else:
            other.add(cell)
    complete = {folder: [by[s] for s in shifts] for folder, by in found.items() if by.keys() == set(shifts)}
    whole = {cell: complete[folder] for cell in grid.cells if (folder := grid.folder(cell)) in complete}
    return whole, len(other - whole.keys())
