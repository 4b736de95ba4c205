"""Format plans and datasets as text for ``dom2data``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dom2_cli import show as ui

if TYPE_CHECKING:
    from dom2data.plan import Plan, State

HEAD = ("id", "steps", "episodes", "return", "published", "score", "size", "wall time", "steps/s", "hash")
MARKDOWN = ("id", "episodes", "return", "published", "wall time", "size", "hash")


def plan(todo: Plan, workers: int, retrain: bool) -> str:
    """Describe what ``generate`` is about to do."""
    from shutil import disk_usage

    free = ""
    if isinstance(todo.base, Path):
        there = next(folder for folder in (todo.base, *todo.base.parents) if folder.exists())
        free = f", {ui.size(disk_usage(there).free)} free"
    policies = [f"{name} ({digest[:12]})" for name, digest in todo.recipe.policies.items()]
    least = "at least " if todo.ragged else ""
    amount = f"{todo.expected_steps:,} in {least}{todo.episodes:,} episodes"
    if todo.replay:
        policies = ["learners trained from scratch until they reach the medium level"]
        amount = f"the replay buffer at that point, about {amount}"
    if retrain:
        policies.append("behaviour policies retrained first")
    rows = {
        "dataset": f"{todo.dataset_id} in {todo.base}",
        "policies": ", ".join(policies) or "uniform actions",
        "steps": amount,
        "disk": f"{ui.size(todo.nbytes)} at most{free}",
        "time": f"about {ui.duration(todo.seconds(workers))} with {ui.counted(workers, 'worker')}",
    }
    return ui.rows(rows)


def plans(todo: Sequence[Plan], states: Mapping[str, State], workers: Mapping[str, int], err: bool) -> None:
    """Print what ``generate`` is about to do with many datasets, as a table with totals."""
    words = {"missing": "make", "complete": "keep", "damaged": "make again", "other": "id is taken"}
    times = [0.0 if states[p.dataset_id] == "complete" else p.seconds(workers[p.dataset_id]) for p in todo]
    rows = [
        (
            plan.dataset_id,
            words[states[plan.dataset_id]],
            f"{'about ' if plan.replay else ''}{plan.expected_steps:,}",
            ui.size(plan.nbytes),
            f"{workers[plan.dataset_id]}",
            ui.duration(seconds),
        )
        for plan, seconds in zip(todo, times, strict=True)
    ]
    total = ("total", "", "", ui.size(sum(plan.nbytes for plan in todo)), "", ui.duration(sum(times)))
    ui.table(("id", "action", "steps", "max size", "workers", "estimated time"), [*rows, total], err)


def headline(summary: dict[str, Any]) -> dict[str, str]:
    """Return the most important lines about a dataset."""
    team = summary["returns"]["team"]
    rate = summary["steps"] / summary["wall_s"] if summary["wall_s"] else 0.0
    return {
        "id": summary["id"],
        "path": summary["path"],
        "episodes": f"{summary['episodes']:,} ({summary['steps']:,} steps, {ui.size(summary['size_bytes'])})",
        "return": f"{team['mean']:.2f} ± {team['std']:.2f}" + _published(summary),
        "normalised": f"{ui.number(summary['normalized'])} (published references), "
        f"{ui.number(summary['normalized_own'])} (own)",
        "hash": summary["hash"],
        "wall time": f"{ui.duration(summary['wall_s'])} ({rate:,.0f} steps/s)",
    }


def _published(summary: dict[str, Any]) -> str:
    """The published return of the same quality, in brackets; empty if there is none."""
    at = summary["published"]
    return f" (published {at['mean']:.2f} ± {at['std']:.2f})" if at else ""


def catalog(summaries: Sequence[dict[str, Any]]) -> None:
    """Print datasets as a table on stdout."""
    ui.table(HEAD, [row(summary) for summary in summaries])


def markdown(summaries: Sequence[dict[str, Any]]) -> str:
    """Format datasets as a Markdown table: first the standard ones, by task and quality."""
    from dom2data import envs, recipes

    def place(summary: dict[str, Any]) -> tuple[bool, int, int, str]:
        env, quality = summary["env"], summary["quality"]
        known = env in envs.NAMES and quality in recipes.QUALITIES and not summary["parents"]
        task = envs.NAMES.index(env) if known else 0
        return not known, task, list(recipes.QUALITIES).index(quality) if known else 0, summary["id"]

    chosen = [HEAD.index(name) for name in MARKDOWN]
    lines = [[HEAD[i] for i in chosen], ["---", *["--:"] * (len(chosen) - 2), "---"]]
    for summary in sorted(summaries, key=place):
        cells = row(summary)
        lines.append([f"`{cells[i]}`" if HEAD[i] in ("id", "hash") else cells[i] for i in chosen])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row(summary: dict[str, Any]) -> tuple[str, ...]:
    """Return a dataset's row of the table in ``catalog``."""
    team, at = summary["returns"]["team"], summary["published"]
    return (
        summary["id"],
        f"{summary['steps']:,}",
        f"{summary['episodes']:,}",
        f"{team['mean']:.1f} ± {team['std']:.1f}",
        f"{at['mean']:.1f} ± {at['std']:.1f}" if at else "–",
        ui.number(summary["normalized"]),
        ui.size(summary["size_bytes"]),
        ui.duration(summary["wall_s"]),
        f"{summary['steps'] / summary['wall_s']:,.0f}" if summary["wall_s"] else "–",
        summary["hash"][:12],
    )


def details(summary: dict[str, Any]) -> dict[str, str]:
    """Return the lines that only ``show`` prints."""
    spec, references = summary["spec"], summary["references"]
    lines = {
        "created": summary["created"],
        "environment": f"{summary['env']} ({spec['env_id']}, fingerprint {summary['fingerprint']})",
        "agents": f"{summary['agents']}: {', '.join(spec['agent_names'])}",
        "sizes": f"observation {max(spec['obs_dims'])}, action {spec['act_dim']}, horizon {spec['horizon']}, "
        f"reward {spec['reward']}",
        "references": "; ".join(
            f"{kind}: random {at['random']:.2f}, expert {at['expert']:.2f}"
            for kind, at in references.items()
            if at
        )
        or "none",
        "recipe": ", ".join(
            f"{k} {v}" for k, v in (summary["recipe"] or {}).items() if not isinstance(v, dict)
        ),
        "versions": ", ".join(f"{key} {value}" for key, value in summary["versions"].items()),
    }
    for name, policy in summary["policies"].items():
        lines[f"policy {name}"] = ", ".join(f"{key} {value}" for key, value in policy.items())
    for number, parent in enumerate(summary["parents"]):
        how = {key: value for key, value in parent.items() if isinstance(value, str | int | float)}
        about = ", ".join(
            f"{key} {str(value)[:16]}" for key, value in how.items() if key not in ("id", "hash")
        )
        lines[f"parent {number}" if number else "parent"] = f"{parent['id']} ({parent['hash'][:16]}), {about}"
    return lines


def returns(summary: dict[str, Any]) -> None:
    """Print mean, standard deviation and quantiles of the team's and every agent's return."""
    rows = {"team": summary["returns"]["team"]} | summary["returns"]["agents"]
    quantiles = list(summary["returns"]["team"]["quantiles"])
    ui.table(
        ("return", "mean", "std", *(f"q{q}" for q in quantiles)),
        [
            (name, f"{r['mean']:.2f}", f"{r['std']:.2f}", *(f"{r['quantiles'][q]:.1f}" for q in quantiles))
            for name, r in rows.items()
        ],
    )
