"""``dom2 sweep``: run the grid or the search that a TOML file specifies."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dom2_cli import show as ui
from dom2_cli import watching
from dom2_cli.options import Where, json_option, root_option, runs_options
from dom2data.errors import FAILED, UserError

if TYPE_CHECKING:
    from dom2.jobs import Outcome
    from dom2.search import Search
    from dom2.sweep import Asked, Sweep

SPEC, RESULT = "spec.toml", "sweep.json"


@click.command()
@click.argument("spec", metavar="SPEC.toml", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the runs [runs/SPEC]."
)
@click.option(
    "--dry-run", is_flag=True, help="Print what exists, what is missing and how long fitting will take."
)
@runs_options
@click.option("--search", metavar="NAME", help="Search the ranges in [search]: tpe, with Optuna.")
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="Search trials per algorithm."
)
@click.option(
    "--metric", default="score", show_default=True, help="Metric to compare runs by: score or return."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the search.")
@root_option
@json_option
def sweep(
    spec: Path,
    out: Path | None,
    dry_run: bool,
    jobs: int | None,
    executor: str | None,
    address: str | None,
    gpus: float,
    retries: int,
    search: str | None,
    trials: int,
    metric: str,
    seed: int,
    root: Path | None,
    as_json: bool,
) -> None:
    """Fit, evaluate and compare the runs that a TOML file specifies.

    \b
    dom2 sweep eta.toml --dry-run
    dom2 sweep eta.toml --jobs 2
    dom2 sweep eta.toml --executor ray --address auto --gpus 0.25
    dom2 sweep ranges.toml --search tpe --trials 30

    SPEC.toml names datasets, algorithms, settings, and a [grid] of values or ranges to [search]. Repeat the
    command to continue after a stop; started twice, the two share the work. Existing results are reused.
    """
    from dom2 import sweep as sweeps
    from dom2.jobs import at_once
    from dom2.search import METRICS
    from dom2data import ids

    asked = sweeps.Sweep(sweeps.read(spec), (out or Path("runs", spec.stem)).absolute(), ids.root(root))
    if metric not in METRICS:
        raise UserError(f"expected --metric {' or '.join(METRICS)}, found {metric!r}")
    best = at_once(run.job for run in asked.runs())  # refuses impossible runs before anything is made
    found = searching(asked, search, trials, metric, seed)
    require_own(asked, found, spec)
    where = Where(executor, jobs, address, gpus)
    if found and executor == "ray" and jobs is None:
        raise UserError(
            "expected --jobs with --search on Ray, found none; give how many runs to ask for at once"
        )
    workers = where.count(best)
    if dry_run:
        plan(asked, found, workers, as_json)
        return
    worker = where.made(best)
    asked.out.mkdir(parents=True, exist_ok=True)
    if spec.absolute() != asked.out / SPEC:
        shutil.copyfile(spec, asked.out / SPEC)
    supply(asked, found)
    outcomes: dict[Path, Outcome] = {}
    try:
        made(asked, found, worker, retries, workers, outcomes)
    finally:
        document = written(asked, found, metric, outcomes)
    finish(asked, document, metric, as_json)


def searching(asked: Sweep, name: str | None, trials: int, metric: str, seed: int) -> Search | None:
    """Return the search that the command line and the file specify, or None for a grid."""
    if name is None:
        if asked.spec.search:
            raise UserError("expected --search tpe with a table [search], found none; give it, or a [grid]")
        return None
    if name != "tpe":
        raise UserError(f"expected --search tpe, found {name!r}; TPE is the only one")
    from dom2.search import Search

    if asked.spec.grid:
        raise UserError("expected a table [search] with --search, found [grid]; leave out one of the two")
    return Search(asked, trials, metric, seed)


def require_own(asked: Sweep, search: Search | None, spec: Path) -> None:
    """Raises UserError if the folder belongs to another sweep, whose file and record would be overwritten."""
    from dom2 import sweep as sweeps

    if not (asked.out / SPEC).exists():
        return
    runs = (search or asked).runs()
    if reason := sweeps.another(runs, asked.out):
        raise UserError(
            f"{asked.out}: expected the sweep that was begun there, found another in {spec} ({reason}); "
            "choose another --out"
        )


def supply(asked: Sweep, search: Search | None) -> None:
    """Generate the missing datasets. Raises UserError like ``jobs.same_data``, here already and not only
    after fitting."""
    from dom2 import jobs

    with ui.progress_bar() as progress:
        asked.prepare(progress)
    known = [run.job for run in (search or asked).runs()]
    jobs.same_data([job for job in known if jobs.stage(job) != "done"], known)


def plan(asked: Sweep, search: Search | None, workers: int, as_json: bool) -> None:
    """Print what exists, what is missing, and how long it will take."""
    from dom2 import jobs, pace

    trials = search.all() if search else []
    known = [run.job for run in (search or asked).runs()]
    rows = [(job.folder.relative_to(asked.out).as_posix(), jobs.stage(job)) for job in known]
    ended = {run.job.folder for trial in trials if trial.state != "running" for run in trial.runs}
    stages = zip(known, rows, strict=True)
    left = [job for job, (_, stage) in stages if stage != "done" and job.folder not in ended]
    missing = asked.missing()
    ui.note("datasets to generate: " + (", ".join(missing) or "none"))
    if left or search:
        ui.note("timing a few updates of each algorithm that has no run here yet ...")
    seconds = pace.remaining(left, known)
    if search:
        begun = Counter(trial.algorithm for trial in trials)
        for name in search.ranges:
            sampled = pace.remaining([run.job for run in search.sample(name)], known)
            seconds += sampled * (search.trials - begun[name])
    wall = max(sum(seconds) / workers, max(seconds, default=0.0))
    if as_json:
        listed = [{"run": name, "status": stage} for name, stage in rows]
        ui.print_json({"missing_datasets": missing, "runs": listed, "seconds": round(wall, 1)})
        return
    if rows:
        ui.table(("run", "status"), rows)
    click.echo(
        f"fitting takes about {ui.duration(wall)} here with --jobs {workers}; evaluating is not included"
    )


def made(
    asked: Sweep,
    search: Search | None,
    executor: Any,
    retries: int,
    workers: int,
    outcomes: dict[Path, Outcome],
) -> None:
    """Do the runs that are not done, showing progress; fill in ``outcomes``, keyed by folder."""
    from dom2 import jobs

    def done(runs: Sequence[Asked], title: str) -> None:
        left = [run.job for run in runs if jobs.stage(run.job) != "done"]
        if left:
            doing = recorded(jobs.carry_out(left, executor, retries), outcomes)
            watching.attend(left, doing, asked.out, title)

    if search is None:
        runs = asked.runs()
        counted = Counter(jobs.stage(run.job) for run in runs)
        ui.note(f"{len(runs)} runs: " + ", ".join(f"{n} {word}" for word, n in counted.items()))
        done(runs, "runs")
        return
    # Finished trials have values, but a manual evaluation may have replaced their runs' own.
    over = [run for trial in search.all() if trial.state == "complete" for run in trial.runs]
    done([run for run in over if jobs.stage(run.job) == "fitted"], "runs to evaluate again")
    # Take enough trials to keep all workers busy: a trial is one run per dataset.
    while batch := search.take(max(1, workers // len(asked.spec.datasets))):
        numbers = ", ".join(str(trial.number) for trial in batch)
        done(
            [run for trial in batch for run in trial.runs], f"runs of {batch[0].algorithm}, trials {numbers}"
        )
        search.tell(outcomes)
    search.tell(outcomes)  # trials whose last run another command has finished since


def recorded(doing: Iterable[Outcome], outcomes: dict[Path, Outcome]) -> Generator[Outcome]:
    """Yield outcomes as they come, and record each by folder first, so that an interrupt loses none."""
    for outcome in doing:
        outcomes[outcome.job.folder] = outcome
        yield outcome


def written(
    asked: Sweep, search: Search | None, metric: str, outcomes: dict[Path, Outcome]
) -> dict[str, Any]:
    """Write the current record of a sweep into its folder, and return it."""
    from dom2 import run as runs
    from dom2 import sweep as sweeps

    shift, trials = asked.spec.shifts[0], search.all() if search else []
    rows = [sweeps.row(run, asked.out, outcomes.get(run.job.folder)) for run in (search or asked).runs()]
    if any(row["evaluations"] for row in rows) and all(
        sweeps.value(row, shift, metric) is None for row in rows
    ):
        metric = "return"  # an environment without published references has no score
    document: dict[str, Any] = {"metric": metric, "shift": shift}
    if search:
        listed = [
            {
                "algorithm": trial.algorithm,
                "trial": trial.number,
                "settings": trial.params,
                "status": trial.state,
                "value": trial.value,
            }
            for trial in trials
        ]
        document["trials"] = sorted(listed, key=lambda t: (t["value"] is None, -(t["value"] or 0.0)))
    document["runs"] = sweeps.best_first(rows, shift, metric)
    runs.write(asked.out / RESULT, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def finish(asked: Sweep, document: dict[str, Any], metric: str, as_json: bool) -> None:
    """Print the record as JSON or as a table, and report what is not done.

    Raises UserError if runs failed, or learned from different data of the same name.
    """
    if as_json:
        ui.print_json(document)
    else:
        shifts = asked.spec.shifts
        returns = ["return" if shift == "none" else f"return ({shift})" for shift in shifts]
        score = "score" if shifts[0] == "none" else f"score ({shifts[0]})"
        header = ("run", *varied(document), "status", "updates", *returns, score, "minutes")
        ui.table(header, [line(row, shifts, varied(document)) for row in document["runs"]])
    counted = Counter(row["status"] for row in document["runs"])
    if counted["elsewhere"]:
        ui.note(
            f"another process is doing {ui.counted(counted['elsewhere'], 'run')}; repeat the command later "
            "to see the results"
        )
    if document["metric"] != metric:
        ui.note(
            f"these environments have no {metric}: the runs are sorted by {document['metric']}, best first"
        )
    ui.note(f"wrote {asked.out / RESULT}")
    if counted["failed"]:
        again = "these trials are over" if "trials" in document else "the same command tries them again"
        raise UserError(
            f"expected {len(document['runs'])} runs, {counted['failed']} failed (reasons above, and in the "
            f"error.txt of those that were begun); {again}",
            FAILED,
        )
    from dom2 import results

    done = [row for row in document["runs"] if row["status"] == "done"]
    found = [results.read(asked.out / row["run"]) for row in done]
    results.comparable(found)
    results.agree(  # a short name may mean a newer version by now
        (row["dataset"], "dataset", each.dataset["id"], each.folder)
        for row, each in zip(done, found, strict=True)
    )


def varied(document: dict[str, Any]) -> list[str]:
    """Return the settings that run names do not show: those of a search."""
    if "trials" not in document:
        return []
    return list(dict.fromkeys(name for row in document["runs"] for name in row["settings"]))


def line(row: dict[str, Any], shifts: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return a run's row of the table."""
    found = [row["evaluations"].get(shift) for shift in shifts]
    returns = ["–" if each is None else f"{each['mean']:.1f} ± {each['std']:.1f}" for each in found]
    return (
        row["run"],
        *(value(row["settings"].get(name)) for name in names),
        row["status"],
        f"{row['updates']:,}",
        *returns,
        ui.number(found[0] and found[0]["score"]),
        f"{row['minutes']:.1f}",
    )


def value(found: Any) -> str:
    """Format a setting for the table: floats with four digits; the record has them in full."""
    return "" if found is None else f"{found:.4g}" if isinstance(found, float) else str(found)


COMMANDS = (sweep,)
