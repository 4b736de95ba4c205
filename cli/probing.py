"""``dom2 diagnose`` and ``dom2 diversity``: test algorithms on games with known optima; measure diversity."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from dom2_cli import show as ui
from dom2_cli.options import json_option, mismatch_option, place_option, run_argument


@click.command()
@click.option(
    "--algorithm",
    default="all",
    show_default=True,
    help="Names, separated by commas; madiff-c is centralised MADiff.",
)
@click.option("--game", default="all", show_default=True, help="xor or meeting.")
@click.option("--data", "kinds", default="all", show_default=True, help="both (optimal ways) or uniform.")
@click.option("--updates", type=click.IntRange(1), default=1000, show_default=True, help="Updates per run.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Seeds per run.")
@json_option
def diagnose(algorithm: str, game: str, kinds: str, updates: int, seeds: int, as_json: bool) -> None:
    """Train algorithms on coordination games with known optima and report which games they solve.

    \b
    dom2 diagnose
    dom2 diagnose --algorithm bc,dom2 --game xor --data both

    Writes no files. Returns are fractions of the optimal return.
    """
    import dataclasses

    import torch

    from dom2 import diagnose as diagnosis
    from dom2 import experiments
    from dom2data.envs import games

    torch.set_num_threads(1)  # the networks are too small to share
    names = experiments.COMPARED if algorithm == "all" else tuple(algorithm.split(","))
    for name in names:
        experiments.column_of(name)
    chosen_games = chosen("game", game, games.GAMES)
    chosen_kinds: Any = chosen("data", kinds, get_args(games.Kind))
    verdicts = []
    for name in names:
        for each in chosen_games:
            for kind in chosen_kinds:
                ui.note(f"{name}: {each}, {kind}")
                verdicts.append(diagnosis.examine(name, each, kind, updates, seeds))
    if as_json:
        ui.print_json([dataclasses.asdict(v) | {"mean": v.mean, "solved": v.solved} for v in verdicts])
        return
    header = ("algorithm", "game", "data", "data's return", "return", "solved by")
    ui.table(header, [
        (v.algorithm, v.game, v.data, f"{v.behaviour:.2f}", f"{v.mean:.2f}", f"{v.solved} of {len(v.shares)}")
        for v in verdicts
    ])  # fmt: skip


def chosen(what: str, asked: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the requested names, or all. Raises click.UsageError for an unknown one."""
    names = known if asked == "all" else tuple(asked.split(","))
    for name in names:
        if name not in known:
            raise click.UsageError(f"expected --{what} in {', '.join(known)} or all, found {name!r}")
    return names


@click.command()
@run_argument
@click.option(
    "--repeats",
    type=click.IntRange(2),
    default=32,
    show_default=True,
    help="Episodes from each of 64 initial states.",
)
@mismatch_option
@place_option
@json_option
def diversity(folder: Path, repeats: int, allow_mismatch: bool, root: Path | None, as_json: bool) -> None:
    """Compare the spread of a run's actions with the data's; count distinct solutions per initial state.

    \b
    dom2 diversity runs/tag-medium-v0-dom2

    Counts solutions only in spread and its variants: the sets of landmarks that the agents end on.
    """
    from dom2 import diversity as measures
    from dom2 import evaluate, fit
    from dom2 import run as runs
    from dom2data import envs

    run = runs.read(folder)
    name = run.document["dataset"]["env"]
    data, algorithm = fit.data_of(run, root), evaluate.trained(run)
    spread = envs.task(name) == "spread"
    if spread:
        runs.mismatch(run.spec, name, allow_mismatch)
    env: Any = envs.make(name, num_envs=64 * repeats) if spread else None
    found = []
    for index, seed in enumerate(run.seeds):
        policy = algorithm.policy(index)
        row: dict[str, Any] = {"seed": seed, "spread_ratio": measures.spread_ratio(policy, data)}
        if env is not None:
            row |= measures.solutions(policy, env, repeats)._asdict()
        found.append(row)
    if as_json:
        ui.print_json(found)
    else:
        body = [tuple(str(v) if isinstance(v, int) else f"{v:.2f}" for v in row.values()) for row in found]
        ui.table(tuple(found[0]), body)


COMMANDS = (diagnose, diversity)
