"""``dom2data``: make, keep and inspect datasets. Commands import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dom2_cli import describe
from dom2_cli import show as ui
from dom2data.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from dom2data.dataset import Dataset
    from dom2data.generate import Plan

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder of datasets [$MINARI_DATASETS_PATH, ~/.minari/datasets].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
force_option = click.option(
    "--force", is_flag=True, help="Replace what is there, once the new one is complete."
)


@click.group(cls=ui.Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
@click.version_option(package_name="dom2")
def main(debug: bool) -> None:
    """Make, keep and inspect offline multi-agent datasets.

    \b
    dom2data generate --env tag --quality medium-replay
    dom2data subsample --fraction 0.05
    dom2data list
    dom2data show tag-medium --plot returns.png

    Exit codes: 0 ok, 1 the run failed, 2 usage, 3 a check failed, 130 interrupted.
    """


@main.command()
@click.option("--env", required=True, help="Environment: tag.")
@click.option(
    "--quality",
    required=True,
    help="random, random-medium, medium-replay, medium, medium-expert, expert, all.",
)
@click.option("--steps", type=int, help="Transitions, rounded up to whole episodes [1000000].")
@click.option("--seed", type=int, default=0, show_default=True, help="Everything random follows from it.")
@click.option(
    "--store", type=click.Choice(["zarr"]), default="zarr", show_default=True, help="Format on disk."
)
@click.option("--out", metavar="ID", help="Dataset id [dom2/<env>-<quality>-v0].")
@click.option("--workers", type=click.IntRange(1), help="Processes, whatever the bytes [as many as pay].")
@click.option(
    "--retrain", is_flag=True, help="Train the behaviour policies anew instead of using the shipped ones."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@force_option
@root_option
@json_option
def generate(
    env: str,
    quality: str,
    steps: int | None,
    seed: int,
    store: str,
    out: str | None,
    workers: int | None,
    retrain: bool,
    dry_run: bool,
    force: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Roll behaviour policies out into a dataset.

    \b
    dom2data generate --env tag --quality medium
    dom2data generate --env tag --quality all --workers 2
    dom2data generate --env tag --quality expert --steps 100000 --seed 1 --dry-run

    An interrupted run continues where it stopped when the same command is given again.
    """
    from dom2_policies import zoo
    from dom2data import catalog, ids, pool, recipes
    from dom2data import generate as make
    from dom2data.retrain import retrained

    if quality == "all" and out:
        raise UserError(f"expected no --out with --quality all (each has its own id), found {out}")

    sizes = {name: None if kind.replay else steps for name, kind in recipes.QUALITIES.items()}

    def plans(checkpoints: Path) -> list[Plan]:
        return [
            make.plan(env, name, steps=size, seed=seed, out=out, root=root, checkpoints_in=checkpoints)
            for name, size in (sizes if quality == "all" else {quality: steps}).items()
        ]

    todo = plans(zoo.FOLDER)  # before any training, so that a wrong word costs no time
    if retrain and not dry_run:
        with ui.progress_bar() as progress:
            todo = plans(retrained(env, seed, ids.root(root), progress))
    made = []
    for plan in todo:
        processes = workers or plan.best_workers(pool.cores())
        click.echo(describe.plan(plan, processes, retrain), err=not dry_run)
        if quality == "all" and not force and make.exists(plan):
            ui.note(f"{plan.dataset_id} is complete already: kept")
        elif not dry_run:
            made.append(carry_out(plan, processes, force))
            if not as_json:
                finish(made[-1], root)
    if as_json and not dry_run:
        records = [catalog.summary(dataset.manifest, ids.root(root)) for dataset in made]
        ui.print_json(records if quality == "all" else records[0])


def carry_out(plan: Plan, workers: int, force: bool) -> Dataset:
    """Generate with a progress bar; says what is kept when interrupted."""
    from dom2data.generate import generate

    try:
        with ui.progress_bar() as progress:
            return generate(plan, workers=workers, force=force, progress=progress)
    except KeyboardInterrupt as error:
        kept = "finished blocks are kept, the same command continues"
        if plan.episodes is None:
            kept = "training starts anew with the same command"
        raise UserError(f"{plan.dataset_id}: interrupted; {kept}", INTERRUPTED) from error


def finish(made: Dataset, root: Path | None, as_json: bool = False) -> None:
    """The last words of a command that made a dataset."""
    from dom2data import catalog, ids

    summary = catalog.summary(made.manifest, ids.root(root))
    if as_json:
        ui.print_json(summary)
    else:
        click.echo(ui.rows(describe.headline(summary)))
    ui.note(f"next: dom2 fit --dataset {made.id}")


@main.command()
@click.option("--env", required=True, help="Environment: tag.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the checkpoints [./zoo-<env>].")
@click.option("--seed", type=int, default=0, show_default=True, help="Everything random follows from it.")
@force_option
def train(env: str, out: Path | None, seed: int, force: bool) -> None:
    """Train the behaviour policies (and the frozen prey) of an environment from nothing.

    \b
    dom2data train --env tag --out ./zoo-tag

    The shipped checkpoints are left alone.
    """
    from dom2data.retrain import train as learn

    folder = out or Path(f"zoo-{env}")
    with ui.progress_bar() as progress:
        entry = learn(env, seed, folder, progress, force=force)
    facts = {name: f"return {p['return']:.2f}" for name, p in entry["policies"].items() if "return" in p}
    click.echo(ui.rows({"folder": str(folder)} | facts))


@main.command()
@click.option("--fraction", type=float, required=True, help="Share of the episodes to keep, in (0, 1].")
@click.option("--dataset", metavar="ID", help="Dataset to take them from [the one written last].")
@click.option("--seed", type=int, default=0, show_default=True, help="Which episodes.")
@click.option("--out", metavar="ID", help="Id of the new dataset [<name>-<percent>pct].")
@force_option
@root_option
@json_option
def subsample(
    fraction: float,
    dataset: str | None,
    seed: int,
    out: str | None,
    force: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Keep a part of the episodes of a dataset, as a dataset with its lineage.

    \b
    dom2data subsample --fraction 0.05
    dom2data subsample --fraction 0.1 --dataset tag-expert --seed 1
    """
    from dom2data import catalog, ids
    from dom2data.dataset import open as open_dataset
    from dom2data.subsample import subsample as cut

    parent = open_dataset(dataset, root) if dataset else catalog.newest(ids.root(root))
    ui.note(
        f"from {parent.id} ({parent.n_episodes:,} episodes)"
        + ("" if dataset else ", the dataset written last")
    )
    finish(cut(parent, fraction, seed=seed, out=out, root=root, force=force), root, as_json)


@main.command("list")
@root_option
@json_option
def list_datasets(root: Path | None, as_json: bool) -> None:
    """The datasets that are there.

    \b
    dom2data list
    dom2data list --json
    """
    from dom2data import catalog, ids

    base = ids.root(root)
    found, refused = catalog.catalog(base)
    for error in refused:
        ui.note(f"skipped: {error}")
    if as_json:
        ui.print_json(found)
    elif found:
        ui.table(
            (
                "id",
                "steps",
                "episodes",
                "return",
                "published",
                "score",
                "size",
                "wall time",
                "steps/s",
                "hash",
            ),
            [describe.row(summary) for summary in found],
        )
    else:
        ui.note(f"no datasets in {base}; `dom2data generate --env tag --quality medium` makes one")


@main.command()
@click.argument("dataset", metavar="ID")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a histogram of returns (PNG, SVG or PDF).",
)
@root_option
@json_option
def show(dataset: str, plot: Path | None, root: Path | None, as_json: bool) -> None:
    """Everything about one dataset.

    \b
    dom2data show tag-medium
    dom2data show tag-medium-5pct --json
    dom2data show tag-expert --plot returns.png
    """
    from dom2data import catalog, ids
    from dom2data.dataset import open as open_dataset

    found = open_dataset(dataset, root)
    summary = catalog.summary(found.manifest, ids.root(root))
    if plot is not None:
        from dom2data.plots import histogram

        histogram(found, plot)
        ui.note(f"histogram: {plot}")
    if as_json:
        ui.print_json(summary)
    else:
        click.echo(ui.rows(describe.headline(summary) | describe.details(summary)))
        describe.returns(summary)


@main.command()
@click.argument("dataset", metavar="ID")
@root_option
def verify(dataset: str, root: Path | None) -> None:
    """Check a dataset: structure, hashes, episodes, values, returns. Exit code 3 with the first finding.

    \b
    dom2data verify tag-medium
    """
    from dom2data.dataset import open as open_dataset
    from dom2data.verify import verify as check

    found = open_dataset(dataset, root)
    passed = check(found)
    click.echo(ui.rows({"id": found.id, "ok": ", ".join(passed), "hash": found.hash}))
