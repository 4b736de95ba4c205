"""``dom2data``: create, manage and inspect datasets. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dom2_cli import converting, describe, generating, looking, sharing, subsets
from dom2_cli import show as ui
from dom2_cli.generating import finish
from dom2_cli.options import Where, executor_options, json_option, place_option, replace_option, root_option
from dom2data import envs
from dom2data.errors import CHECK_FAILED, INTERRUPTED, UserError

ENVIRONMENTS = f"{', '.join(envs.NAMES)}; a variant ({', '.join(envs.VARIANTS)}); your own as module:make"
checkpoints_option = click.option(
    "--checkpoints",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of behaviour policies written by `dom2data train` [the shipped ones].",
)


@click.group(cls=ui.Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error. May stand anywhere on the line.")
@click.version_option(package_name="dom2")
def main(debug: bool) -> None:
    """Create, manage and inspect offline multi-agent datasets.

    \b
    dom2data generate --env tag --quality medium-replay
    dom2data subsample --fraction 0.05
    dom2data list
    dom2data show tag-medium --plot returns.png

    Exit codes: 0 ok, 1 the run failed, 2 usage error, 3 a check failed, 130 interrupted.
    """


@main.command()
@click.option("--env", required=True, help=f"Environment: {ENVIRONMENTS}; several with commas, or all (4).")
@click.option(
    "--quality",
    required=True,
    help="random, random-medium, medium-replay, medium, medium-expert, expert; several with commas, or all.",
)
@click.option(
    "--steps", type=int, help="Transitions, rounded up to whole episodes [1000000]. Not with medium-replay."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for everything random.")
@click.option(
    "--store",
    type=click.Choice(["zarr", "minari"]),
    default="zarr",
    show_default=True,
    help="minari: also write an HDF5 copy for Minari.",
)
@click.option("--out", metavar="ID", help="Dataset id [dom2/<env>-<quality>-v0].")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Blocks collected in parallel; does not change the data [chosen by the amount of work].",
)
@executor_options("local, threads, processes or ray [threads; processes for your own environments].")
@click.option("--shard", metavar="K/N", help="Collect part K of N; `dom2data merge ID` joins the parts.")
@checkpoints_option
@click.option(
    "--retrain", is_flag=True, help="Train new behaviour policies instead of using the shipped ones."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--verify", "rehash", is_flag=True, help="For several datasets: check existing ones by hash, not size."
)
@replace_option
@place_option
@json_option
@sharing.delivered
def generate(workers: int | None, executor: str | None, address: str | None, **line: Any) -> None:
    """Generate one or more datasets by rolling out behaviour policies.

    \b
    dom2data generate --env tag --quality medium
    dom2data generate --env all --quality all
    dom2data generate --env tag --quality expert --steps 100000 --seed 1 --dry-run
    dom2data generate --env my_module:make --quality random --steps 100000
    dom2data generate --env tag --quality medium --store minari
    dom2data generate --env tag --quality medium --shard 3/8

    random takes uniform actions; medium and expert roll out those policies; random-medium and medium-expert
    are half of each. medium-replay is the replay buffer at the moment when training reaches medium.

    Repeat the same command to continue an interrupted run. With several datasets, those that already exist
    and are complete are kept.
    """
    asked, where = generating.Asked(**line), Where(executor, workers, address)
    todo = generating.plans(asked)
    if asked.shard:
        generating.shard(asked, todo, where)
        return
    if asked.many:
        records = generating.many(asked, todo, where)
        if not asked.dry_run:
            if asked.store == "minari":
                generating.for_minari([record["id"] for record in records], asked.root, asked.force)
            ui.print_json(records) if asked.as_json else describe.catalog(records)
        return
    made = generating.one(asked, todo[0], where)
    if made is not None:
        if asked.store == "minari":
            generating.for_minari([made.id], asked.root, asked.force)
        finish(made, asked.there or asked.root, asked.as_json)


@main.command()
@click.argument("dataset", metavar="ID")
@click.option(
    "--from",
    "others",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Another root that holds shards; may be repeated.",
)
@checkpoints_option
@replace_option
@root_option
@json_option
def merge(
    dataset: str,
    others: tuple[Path, ...],
    checkpoints: Path | None,
    force: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Join the shards of `generate --shard K/N` into one dataset, identical to one made in a single run.

    \b
    dom2data merge tag-medium
    dom2data merge tag-medium --from /scratch/node1 --from /scratch/node2

    Shards in other roots are copied and not removed.
    """
    finish(generating.merge(dataset, others, checkpoints, force, root), root, as_json)


@main.command()
@click.option("--env", required=True, help=f"Environment: {ENVIRONMENTS}.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the checkpoints [./zoo-<env>].")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for everything random.")
@click.option(
    "--new-prey",
    is_flag=True,
    help="Tag and world: first train a new prey to train against; this changes the environment.",
)
@replace_option
def train(env: str, out: Path | None, seed: int, new_prey: bool, force: bool) -> None:
    """Train the behaviour policies of an environment from scratch.

    \b
    dom2data train --env tag --out ./zoo-tag
    dom2data generate --env tag --quality expert --checkpoints ./zoo-tag

    The shipped checkpoints are not touched. Repeat the same command to continue an interrupted training
    run, bit for bit.
    """
    from dom2data.retrain import train as learn

    folder = out or Path(f"zoo-{env.replace(':', '-').replace('/', '-')}")
    try:
        with ui.progress_bar() as progress:
            entry = learn(env, seed, folder, progress, force=force, new_prey=new_prey)
    except KeyboardInterrupt as error:
        message = f"{folder}: interrupted; the same command continues from its last minute"
        raise UserError(message, INTERRUPTED) from error
    facts = {name: f"return {p['return']:.2f}" for name, p in entry["policies"].items() if "return" in p}
    click.echo(ui.rows({"folder": str(folder)} | facts))


@main.command()
@click.option("--env", required=True, help=f"Environment: {ENVIRONMENTS}.")
@click.option("--episodes", type=click.IntRange(1), help="Episodes per policy [20000; halfcheetah 200].")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed for the episodes.")
@checkpoints_option
@json_option
def references(env: str, episodes: int | None, seed: int, checkpoints: Path | None, as_json: bool) -> None:
    """Measure the returns that define scores 0 (uniform actions) and 100 (expert); compare with those in use.

    \b
    dom2data references --env tag
    """
    from dom2_policies import zoo
    from dom2data import scores
    from dom2data.behaviour import measure

    folder = checkpoints or zoo.FOLDER
    found = {
        "measured now": measure(env, episodes, seed, folder),
        "in use": zoo.entry(env, folder)["references"],
        "published": scores.PUBLISHED.get(env),
    }
    if as_json:
        ui.print_json(found)
        return
    rows = [
        (kind, *(ui.number(at and at[key], 2) for key in ("random", "expert"))) for kind, at in found.items()
    ]
    ui.table(("references", "random", "expert"), rows)


@main.command("list")
@click.option("--markdown", is_flag=True, help="Print a Markdown table, sorted by task and quality.")
@place_option
@json_option
def list_datasets(markdown: bool, root: Path | None, as_json: bool) -> None:
    """List the datasets under the root.

    \b
    dom2data list
    dom2data list --json
    """
    from dom2data import catalog, ids

    base = ids.place(root)
    found, refused = catalog.catalog(base)
    for error in refused:
        ui.note(f"skipped: {error}")
    if as_json:
        ui.print_json(found)
    elif found:
        click.echo(describe.markdown(found)) if markdown else describe.catalog(found)
    else:
        ui.note(f"no datasets in {base}; `dom2data generate --env tag --quality medium` makes one")


@main.command()
@click.argument("dataset", metavar="ID")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a histogram of returns (PNG, SVG or PDF).",
)
@click.option("--force", is_flag=True, help="Overwrite an existing histogram.")
@place_option
@json_option
def show(dataset: str, plot: Path | None, force: bool, root: Path | None, as_json: bool) -> None:
    """Show everything about one dataset.

    \b
    dom2data show tag-medium
    dom2data show tag-medium-5pct --json
    dom2data show tag-expert --plot returns.png
    """
    from dom2data import catalog, ids
    from dom2data.dataset import open as open_dataset

    found = open_dataset(dataset, root)
    summary = catalog.summary(found.manifest, ids.place(root))
    if plot is not None:
        from dom2data.plots import histogram

        histogram(found, plot, force=force)
        ui.note(f"histogram: {plot}")
    if as_json:
        ui.print_json(summary)
    else:
        click.echo(ui.rows(describe.headline(summary) | describe.details(summary)))
        describe.returns(summary)


@main.command("check-env")
@click.argument("env", metavar="ENV")
@click.option("--episodes", type=click.IntRange(1), default=5, show_default=True, help="Episodes to play.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for these episodes.")
@json_option
def check_env(env: str, episodes: int, seed: int, as_json: bool) -> None:
    """Check whether a PettingZoo environment can generate data. Lists the problems; exit code 3 if any.

    \b
    dom2data check-env my_module:make
    dom2data check-env path/to/file.py:make
    dom2data check-env tag
    """
    from dom2data.check_env import check

    facts, findings = check(env, episodes, seed)
    if as_json:
        ui.print_json({"env": env, "findings": findings, **facts})
    else:
        click.echo("\n".join([*findings, ui.rows({key: str(value) for key, value in facts.items()})]))
    if findings:
        raise UserError(f"{env}: expected no findings, found {len(findings)}; see above", CHECK_FAILED)
    ui.note(f"next: dom2data generate --env {env} --quality random --steps 10000")


for command in (
    subsets.subsample,
    subsets.mix,
    subsets.diff,
    subsets.verify,
    *converting.COMMANDS,
    *sharing.COMMANDS,
    *looking.COMMANDS,
):
    main.add_command(command)
