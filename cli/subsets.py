"""``dom2data subsample``, ``mix``, ``diff`` and ``verify``: derive, compare and check datasets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dom2_cli import show as ui
from dom2_cli.generating import finish
from dom2_cli.options import json_option, place_option, replace_option, root_option
from dom2data import envs
from dom2data.errors import CHECK_FAILED, UserError

seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed for the draw.")


@click.command()
@click.option("--fraction", type=float, help="Fraction of the episodes to keep, in (0, 1].")
@click.option("--episodes", type=int, help="Number of episodes to keep, instead of a fraction.")
@click.option("--quality", metavar="POLICY", help="Only episodes of this policy, such as expert.")
@click.option(
    "--returns", metavar="LOW:HIGH", help="Only team returns in this range: 50:120, or quantiles 90%:100%."
)
@click.option("--stratified", is_flag=True, help="Draw the same fraction of each policy and return decile.")
@click.option("--dataset", metavar="ID", help="Dataset to subsample [the most recently written].")
@seed_option
@click.option("--out", metavar="ID", help="Id of the new dataset [<name>-<percent>pct].")
@replace_option
@root_option
@json_option
def subsample(
    fraction: float | None,
    episodes: int | None,
    quality: str | None,
    returns: str | None,
    stratified: bool,
    dataset: str | None,
    seed: int,
    out: str | None,
    force: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Keep some episodes of a dataset as a new dataset, which records where they came from.

    \b
    dom2data subsample --fraction 0.05
    dom2data subsample --fraction 0.1 --dataset tag-expert --seed 1 --stratified
    dom2data subsample --dataset tag-medium-expert --quality expert --episodes 500
    dom2data subsample --dataset tag-medium --returns 90%:100%
    """
    from dom2data import catalog, ids
    from dom2data.dataset import open as open_dataset
    from dom2data.subsample import Selection
    from dom2data.subsample import subsample as cut

    selection = Selection(fraction, episodes, quality, returns, stratified, seed)
    parent = open_dataset(dataset, root) if dataset else catalog.newest(ids.root(root))
    ui.note(
        f"from {parent.id} ({parent.n_episodes:,} episodes)"
        + ("" if dataset else ", the dataset written last")
    )
    finish(cut(parent, selection=selection, out=out, root=root, force=force), root, as_json)


@click.command()
@click.argument("parts", metavar="ID:RATIO ID:RATIO ...", nargs=-1, required=True)
@click.option("--episodes", type=int, help="Total number of episodes [the most that the ratio allows].")
@click.option("--steps", type=int, help="Total number of steps; the ratio is then one of steps.")
@seed_option
@click.option("--out", metavar="ID", help="Id of the new dataset [<env>-mix-<quality><percent>-...].")
@replace_option
@root_option
@json_option
def mix(
    parts: tuple[str, ...],
    episodes: int | None,
    steps: int | None,
    seed: int,
    out: str | None,
    force: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Mix whole episodes of several datasets of one environment in a given ratio, no episode twice.

    \b
    dom2data mix tag-medium:0.7 tag-expert:0.3
    dom2data mix tag-random:1 tag-medium:1 tag-expert:2 --episodes 10000 --out tag-three
    """
    from dom2data.dataset import open as open_dataset
    from dom2data.mix import mix as join

    asked = [_weighted(part) for part in parts]
    parents = [open_dataset(name, root) for name, _ in asked]
    how: dict[str, Any] = {"episodes": episodes, "steps": steps, "seed": seed}
    made = join(parents, [weight for _, weight in asked], **how, out=out, root=root, force=force)
    for parent in made.manifest["parents"]:
        ui.note(f"{parent['kept']:,} of {parent['episodes']:,} episodes of {parent['id']}")
    finish(made, root, as_json)


def _weighted(part: str) -> tuple[str, float]:
    name, _, weight = part.rpartition(":")
    try:
        return (name, float(weight)) if name else (part, 1.0)
    except ValueError as error:
        raise UserError(f"expected ID:RATIO, as tag-medium:0.7, found {part!r}") from error


@click.command()
@click.argument("one", metavar="ID")
@click.argument("other", metavar="ID")
@place_option
@json_option
def diff(one: str, other: str, root: Path | None, as_json: bool) -> None:
    """Show how two datasets differ and whether they share episodes. The exit code is 0 either way.

    \b
    dom2data diff tag-medium tag-expert
    dom2data diff tag-medium tag-medium-5pct --json
    """
    from dom2data.dataset import open as open_dataset
    from dom2data.diff import diff as compare

    found = compare(open_dataset(one, root), open_dataset(other, root))
    ui.print_json(found) if as_json else _tell(found)


def _tell(found: dict[str, Any]) -> None:
    """Print the result of ``diff`` as text."""
    facts = {
        "content": "the same" if found["same_content"] else "different",
        **{name: "{:,} and {:,}".format(*found[name]) for name in ("episodes", "steps")},
        "identical episodes": "{:,} of the first, {:,} of the second".format(*found["shared"]["identical"]),
        "same start": "{:,} of the first, {:,} of the second".format(*found["shared"]["same_start"]),
    }
    for kind in ("schema", "facts", "recipe"):
        for name, *values in found[kind]:
            facts[f"{kind}: {name}"] = " and ".join(map(_brief, values))
    click.echo(ui.rows({"datasets": " and ".join(found["ids"])} | facts))
    header = ("", "mean", "mean", "std", "std", "KS", "Wasserstein")
    rows = [(f"return of {name}", entry) for name, entry in found["returns"].items()]
    for name, entries in found["drift"].items():
        rows += [(f"{name} {e['agent']}[{e['dimension']}]", e) for e in entries[:3]]
        if not entries:
            ui.note(f"{name}: not compared, because the shapes differ")
    table = [(n, *map(_short, (*e["mean"], *e["std"], e["ks"], e["wasserstein"]))) for n, e in rows]
    ui.table(header, table)
    ui.note("for each array, only the three dimensions that differ most are shown; --json prints all")
    if any(found["shared"]["identical"]) or any(found["shared"]["same_start"]):
        ui.note("they share episodes or seeds: neither is a fair test of a policy trained on the other")


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _short(value: float) -> str:
    return f"{value:.4g}"


@click.command()
@click.argument("dataset", metavar="ID")
@click.option("--replay", metavar="SHARE", help="Also replay at least this share of the episodes, e.g. 1%.")
@click.option("--tolerance", type=float, default=0.0, show_default=True, help="Largest allowed replay error.")
@click.option("--env", metavar="MODULE:MAKE", help="Your own environment, whose code the replay may run.")
@place_option
@json_option
def verify(
    dataset: str, replay: str | None, tolerance: float, env: str | None, root: Path | None, as_json: bool
) -> None:
    """Check a dataset: structure, hashes, episodes, values, returns, lineage.

    \b
    dom2data verify tag-medium
    dom2data verify tag-medium --replay 1%
    dom2data verify meet_v0-random --replay 1% --env meet:make

    Stops at the first problem with exit code 3. A replay resets the environment with the recorded seeds,
    takes the stored actions, and compares observations and rewards.
    """
    from dom2data.dataset import open as open_dataset
    from dom2data.verify import verify as check

    if not tolerance >= 0:
        raise UserError(f"expected a --tolerance of 0 or more, found {tolerance:g}")
    if env is not None and replay is None:
        raise UserError("expected --env with --replay, found no --replay; add --replay 1%")
    share = None if replay is None else _share(replay)
    found = open_dataset(dataset, root)
    passed = check(found)
    told: dict[str, Any] = {"id": found.id, "ok": passed, "hash": found.hash}
    if share is not None:
        from dom2data.replay import replay as play

        again = play(found, share, env)
        if not again.error <= tolerance:
            raise UserError(
                f"{found.id}: replay: expected an error of at most {tolerance:g}, found {again.error:g} in "
                f"{again.where}; {_advice(env or found.env)}",
                CHECK_FAILED,
            )
        told |= {"ok": [*passed, "replay"], "replay": asdict(again)}
    if as_json:
        ui.print_json(told)
        return
    if share is not None:
        told["replay"] = f"{again.episodes:,} episodes, {again.steps:,} steps, largest error {again.error:g}"
    click.echo(ui.rows(told | {"ok": ", ".join(told["ok"])}))


def _advice(env: str) -> str:
    """What to do when a replay differs."""
    if envs.is_foreign(env):
        return (
            f"check with `dom2data check-env {env}` that reset(seed) sets everything, or fetch the data again"
        )
    return "data from before arithmetic 1 may need --tolerance 1e-3; fetch other data again"


def _share(text: str) -> float:
    """Parse ``1%`` or ``0.01`` as 0.01."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise UserError(f"expected --replay as 1% or 0.01, found {text!r}") from error
