"""``dom2 reproduce``: make a table or figure of the paper from scratch."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dom2_cli import show as ui
from dom2_cli import watching
from dom2_cli.options import Where, json_option, root_option, runs_options
from dom2data.errors import FAILED, UserError

if TYPE_CHECKING:
    from dom2.experiments import Cell
    from dom2.jobs import Job
    from dom2.reproduce import Grid
    from dom2.tables import Entry

WORDS = {
    "missing": "missing",
    "begun": "begun",
    "fitted": "to evaluate",
    "done": "done",
    "other": "another run",
    "earlier": "in a report",
}


@click.command()
@click.argument("target")
@click.option(
    "--scale",
    default="compact",
    show_default=True,
    help="smoke, compact or paper: sets updates and network sizes.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="WORD",
    help="Only this environment, quality, dataset, column or data fraction (5%); may be repeated.",
)
@click.option("--algorithms", metavar="NAMES", help="Columns, separated by commas [the target's own].")
@click.option("--seeds", type=click.IntRange(1), help="Seeds per cell [the scale's number].")
@runs_options
@click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/reproduce"),
    show_default=True,
    help="Folder of the runs, shared by all targets.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the report [RUNS/SCALE]."
)
@click.option(
    "--earlier",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON of an earlier report, whose results are reused; may be repeated.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what exists, what is missing and how long fitting will take."
)
@click.option("--report-only", is_flag=True, help="Only write the report, from existing results.")
@root_option
@json_option
def reproduce(
    target: str,
    scale: str,
    only: tuple[str, ...],
    algorithms: str | None,
    seeds: int | None,
    jobs: int | None,
    executor: str | None,
    address: str | None,
    gpus: float,
    retries: int,
    runs: Path,
    out: Path | None,
    earlier: tuple[Path, ...],
    dry_run: bool,
    report_only: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Make a table or figure of the paper: generate, fit and evaluate what is missing, then report.

    \b
    dom2 reproduce table1 --dry-run
    dom2 reproduce table1 --scale smoke
    dom2 reproduce table1 --only tag --only medium --seeds 2
    dom2 reproduce figure6 --jobs 2

    TARGET: table1, table2, table3, table4, figure2, figure5, figure6, augmentation, sensitivity, comparison.
    Repeat the same command to continue after a stop. Existing results are reused.
    """
    from dom2 import earlier as reports
    from dom2 import experiments
    from dom2.reproduce import Grid
    from dom2data import ids

    if scale not in experiments.SCALES:
        raise UserError(f"expected a scale ({', '.join(experiments.SCALES)}), found {scale!r}; choose one")
    part = Part(target, scale, only, tuple(algorithms.split(",")) if algorithms else (), seeds)
    cells = tuple(experiments.cells(target, only, part.columns, scale))
    place = ids.root(root)  # resolved here: workers may have other environment variables
    grid = Grid(target, scale, cells, seeds or experiments.SCALES[scale].seeds, runs.absolute(), place)
    where = Where(executor, jobs, address, gpus)
    todo = grid.jobs()
    known, other = reports.known(grid, earlier)
    stages = staged(grid, todo, known)
    left = [job for job in todo if stages[job.folder] not in ("done", "earlier")]
    overview(grid, todo, stages, on_stdout=dry_run and not as_json)
    if other:
        ui.note(f"{ui.counted(other, 'cell')} of the earlier reports not used: made with other settings")
    if dry_run:
        estimate(grid, todo, left, where, as_json, stages)
        return
    failed = carry_out(grid, left, known, where, retries) if left and not report_only else []
    finish(grid, part.command, out / target if out else grid.base / part.name, known, as_json)
    if failed:
        raise UserError(
            f"expected {len(todo)} cells, {len(failed)} failed (reasons above); the same command tries them "
            "again",
            FAILED,
        )


@dataclass(frozen=True)
class Part:
    """The requested part of a target."""

    target: str
    scale: str
    only: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    seeds: int | None = None

    @property
    def command(self) -> str:
        """The command that makes its cells from scratch, wherever their runs were made."""
        words = ["dom2", "reproduce", self.target]
        words += ["--scale", self.scale] if self.scale != "compact" else []
        words += [word for each in self.only for word in ("--only", each)]
        words += ["--algorithms", ",".join(self.columns)] if self.columns else []
        return shlex.join([*words, *(["--seeds", str(self.seeds)] if self.seeds else [])])

    @property
    def name(self) -> str:
        """The name of its report, unique to the part: it must not overwrite another part's or the whole's."""
        from dom2 import jobs

        # With commas, since medium and expert are not medium-expert.
        words = (self.target, ",".join(self.only), ",".join(self.columns))
        return jobs.safe("-".join(filter(None, (*words, f"{self.seeds} seeds" if self.seeds else ""))))


def staged(grid: Grid, jobs: Sequence[Job], known: dict[Cell, list[Entry]]) -> dict[Path, Any]:
    """Return each job's stage by folder; ``earlier`` if only an earlier report has its results."""
    from dom2.jobs import stage
    from dom2.tables import whole

    stages: dict[Path, Any] = {job.folder: stage(job) for job in jobs}
    for cell, entries in known.items():
        if stages[grid.folder(cell)] == "missing" and whole(grid, entries):
            stages[grid.folder(cell)] = "earlier"
    return stages


def overview(grid: Grid, jobs: Sequence[Job], stages: dict[Path, Any], on_stdout: bool) -> None:
    """Print the grid as a table with a row per dataset and a column per label, or transposed if there are
    many labels."""
    if grid.scale_name == "smoke":
        ui.note("scale smoke: this shows that everything runs; its numbers mean nothing")
    labels = list(dict.fromkeys(cell.label for cell in grid.cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in grid.cells:
        rows.setdefault(cell.data, {})[cell.label] = WORDS[stages[grid.folder(cell)]]
    if len(labels) <= 8:
        header = ("dataset", *labels)
        body = [(data, *(row.get(label, "") for label in labels)) for data, row in rows.items()]
    else:
        header = ("column", *rows)
        body = [(label, *(row.get(label, "") for row in rows.values())) for label in labels]
    ui.table(header, body, err=not on_stdout)
    counted = Counter(WORDS[stages[job.folder]] for job in jobs)
    ui.note(
        f"{len(jobs)} runs of {grid.seeds} seeds: " + ", ".join(f"{n} {word}" for word, n in counted.items())
    )


def estimate(
    grid: Grid, jobs: Sequence[Job], left: Sequence[Job], where: Where, as_json: bool, stages: dict[Path, Any]
) -> None:
    """Print what is missing and how long it will take."""
    from dom2 import pace, reproduce
    from dom2.jobs import at_once

    missing = reproduce.datasets_missing(grid)
    ui.note("datasets to generate: " + (", ".join(missing) or "none"))
    if left:
        ui.note("timing a few updates of each algorithm that has no run here yet ...")
    seconds = pace.remaining(left, jobs)
    workers = where.count(at_once(jobs))
    wall = max(sum(seconds) / workers, max(seconds, default=0.0))
    if as_json:
        times = {job.folder: round(time, 1) for job, time in zip(left, seconds, strict=True)}
        cells = [
            {"folder": str(job.folder), "stage": stages[job.folder], "seconds": times.get(job.folder, 0.0)}
            for job in jobs
        ]
        facts = {"scale": grid.scale_name, "seeds": grid.seeds, "missing_datasets": missing}
        ui.print_json(facts | {"cells": cells, "seconds": round(wall, 1)})
        return
    click.echo(
        f"fitting takes about {ui.duration(wall)} here with --jobs {workers}; evaluating and generating "
        "datasets are not included"
    )


def carry_out(
    grid: Grid, left: Sequence[Job], known: dict[Cell, list[Entry]], where: Where, retries: int
) -> list[Job]:
    """Generate, fit and evaluate, showing progress; return the jobs that failed."""
    from dom2 import earlier, jobs, reproduce

    executor = where.made(jobs.at_once(left))
    with ui.progress_bar() as progress:
        reproduce.prepare(grid, progress)
    # Check now, not after hours of fitting.
    earlier.check(grid, known)
    jobs.same_data(left, grid.jobs())
    last = watching.attend(left, jobs.carry_out(left, executor, retries), grid.base)
    return [outcome.job for outcome in last if outcome.word == "failed"]


def finish(grid: Grid, command: str, stem: Path, known: dict[Cell, list[Entry]], as_json: bool) -> None:
    """Write the report and print its main results."""
    from dom2 import board, earlier, figures, run

    there = stem.with_name(f"{stem.name}.json")
    before = there.read_text() if there.is_file() else ""
    files = board.write(grid, command, stem.parent, known, stem.name)
    document = json.loads(files["json"].read_text())
    if lost := earlier.lost(before, document):
        kept = stem.with_name(f"{stem.name}-before-{sha256(before.encode()).hexdigest()[:8]}.json")
        run.write(kept, before)
        ui.note(
            f"the previous report has {lost} entries that this one lacks: its JSON is kept as {kept}, which "
            "--earlier accepts"
        )
    if as_json:
        ui.print_json(document)
    elif document["aggregate"]:
        if document["smoke"]:
            click.echo("scale smoke: these numbers mean nothing")
        body = [
            (
                each["label"],
                figures.environment(each["shift"], each["fraction"]),
                str(each["rows"]),
                ui.number(each["mean"]),
                ui.number(each["iqm"]),
            )
            for each in document["aggregate"]
        ]
        ui.table(("column", "environment", "datasets", "mean score", "IQM"), body)
    for path in files.values():
        ui.note(f"wrote {path}")


COMMANDS = (reproduce,)
