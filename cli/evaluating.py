"""``dom2 evaluate``: roll out a run's policies in the standard environment and in shifted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dom2_cli import show as ui
from dom2_cli.options import json_option, mismatch_option, run_argument


@click.command()
@run_argument
@click.option(
    "--episodes", type=click.IntRange(1), default=100, show_default=True, help="Episodes of each seed."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed for initial states and policy noise.",
)
@click.option(
    "--shift",
    metavar="NAME",
    default="none",
    show_default=True,
    help="Environment shift, such as speed; all: none and every shift of the environment.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Candidate actions, of which the critic picks the best; 1: the algorithm's own number (MA-SfBC and "
    "MA-Diffusion-QL have one).",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Device for the networks. On a GPU, returns differ because of its own noise and rounding.",
)
@mismatch_option
@json_option
def evaluate(
    folder: Path,
    episodes: int,
    seed: int,
    shift: str,
    candidates: int,
    device: str,
    allow_mismatch: bool,
    as_json: bool,
) -> None:
    """Roll out a run's policies: returns, interquartile mean, normalised score.

    \b
    dom2 evaluate runs/tag-medium-v0-dom2
    dom2 evaluate runs/tag-medium-v0-dom2 --episodes 500 --json
    dom2 evaluate runs/tag-medium-v0-dom2 --shift speed

    Also written to RUN/evaluation.json, or RUN/evaluation-NAME.json under a shift.
    """
    import torch

    from dom2 import evaluate as evaluation
    from dom2 import run as runs
    from dom2data.envs import shifts

    run = runs.read(folder)
    torch.set_num_threads(run.settings.threads)
    names = ["none", *shifts.applying(run.document["dataset"]["env"])] if shift == "all" else [shift]
    results, where = [], runs.actual_device(device, "leave --device out")
    for number, name in enumerate(names, 1):
        if shift == "all":
            ui.note(f"shift {name} ({number} of {len(names)})")
        result = evaluation.evaluate(run, episodes, seed, candidates, name, allow_mismatch, where)
        evaluation.keep(folder, result)
        results.append(result)
    if as_json:
        ui.print_json(results if shift == "all" else results[0])
    elif shift == "all":
        ui.table(("shift", "return", "IQM", "95 % interval", "mean - standard"), shift_rows(results))
    else:
        click.echo(ui.rows(evaluation_rows(results[0])))
    ui.note(f"next: dom2 report {folder}")


def evaluation_rows(result: dict[str, Any]) -> dict[str, str]:
    """Return the most important lines about an evaluation."""
    drawn = ", ".join(f"{name} {value}" for name, value in result["ranges"].items())
    facts = {
        "return": with_interval(result["return"]),
        "normalised": with_interval(result["normalized"]) + " (published references)",
        "normalised (own)": with_interval(result["normalized_own"]),
        "data": f"{result['dataset']['mean']:.1f} mean return of {result['dataset']['id']}",
        "episodes": f"{result['episodes']} for each of {ui.counted(result['seeds'], 'seed')}",
        "environment": f"{result['env']}, shift {result['shift']}" + (f" ({drawn})" if drawn else ""),
        "updates": f"{result['updates']:,}",
    }
    if result["mismatch"]:
        names = ", ".join(each["fact"] for each in result["mismatch"])
        facts["mismatch"] = f"the environment differs from the data's in {names}"
    return facts


def shift_rows(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row per evaluation; ``results[0]`` is the one in the standard environment."""
    standard = results[0]["return"]["mean"]
    rows: list[tuple[str, ...]] = []
    for result in results:
        found = result["return"]
        interval = f"[{found['ci'][0]:.1f}, {found['ci'][1]:.1f}]"
        gap = "" if result["shift"] == "none" else f"{found['mean'] - standard:+.1f}"
        mean = f"{found['mean']:.1f} ± {found['std']:.1f}"
        rows.append((result["shift"], mean, f"{found['iqm']:.1f}", interval, gap))
    return rows


def with_interval(summary: dict[str, Any] | None) -> str:
    """116.4 ± 58.9, IQM 115.0 [110.2, 120.1]"""
    if summary is None:
        return "–"
    low, high = summary["ci"]
    return f"{summary['mean']:.1f} ± {summary['std']:.1f}, IQM {summary['iqm']:.1f} [{low:.1f}, {high:.1f}]"


COMMANDS = (evaluate,)
