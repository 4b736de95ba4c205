"""A target's report: JSON, Markdown, and one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from dom2 import diversity, evaluate, experiments, figures, report, results, run, tables
from dom2.jobs import Stage
from dom2.reproduce import Grid
from dom2.tables import Entry
from dom2_policies.policy import Policy, Uniform
from dom2data import envs
from dom2data.envs.render import draw
from dom2data.look.pictures import PAGES, png

STAGES: dict[Stage, str] = {
    "missing": "no run",
    "begun": "not fitted to the end",
    "fitted": "not evaluated after the last update",
    "other": "its folder holds another run or other files",
}
"""reasons why a cell is missing"""

REPEATS = 16
"""episodes from each initial state when solutions are counted"""


class Matrix(NamedTuple):
    """A table of one environment, with many algorithms as rows and qualities as columns."""

    title: str
    qualities: list[tuple[str, Entry]]
    """each with an entry that describes its data"""
    rows: list[tuple[str, list[tuple[Entry | None, str]]]]
    """for each algorithm: its entries, each marked ``best``, ``certain`` or not at all"""


class Found(NamedTuple):
    """The solutions that a column's agents find, over its seeds."""

    label: str
    mean: diversity.Solutions
    std: diversity.Solutions
    ends: list[str]
    """pictures of four final states of its first seed from the same initial state"""

    def counts(self) -> dict[str, dict[str, float]]:
        return {"mean": self.mean._asdict(), "std": self.std._asdict()}


class Board(NamedTuple):
    """The content of the templates."""

    document: dict[str, Any]
    matrices: list[Matrix]
    sections: list[tuple[str, list[figures.Picture]]]
    films: list[tuple[str, str, list[str]]]
    """title, animation, stills"""
    solutions: list[Found]


def write(
    grid: Grid, command: str, out: Path, earlier: tables.Earlier | None = None, name: str | None = None
) -> dict[str, Path]:
    """Write a report on the cells of a grid that are done, here or in earlier reports; return files by kind.

    Files are named after the target or ``name``. Raises UserError (code 3) like ``tables.entries``.
    """
    listed, missing = tables.entries(grid, earlier)
    listed, found = solutions(grid, listed)
    here = [each for each in listed if each.report is None]
    counts = {"solutions": {each.label: each.counts() for each in found}} if found else {}
    board = Board(
        document=tables.document(grid, listed, missing, command) | counts,
        matrices=matrices(listed),
        sections=sections(grid, listed, here),
        films=films(grid, here),
        solutions=found,
    )
    out.mkdir(parents=True, exist_ok=True)
    stem = out / (name or grid.target)
    texts = {
        "json": json.dumps(board.document, indent=1, allow_nan=False) + "\n",
        "md": render("board.md", board),
        "html": render("board.html", board),
    }
    files = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in texts}
    for kind, text in texts.items():
        run.write(files[kind], text)
    return files


def render(name: str, board: Board) -> str:
    """Fill in a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, PAGES]),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "interval": interval, "short": short}
    environment.globals |= {"environment": figures.environment, "STAGES": STAGES}
    unnamed = sum(not each["fingerprint"] for each in board.document["entries"])
    return environment.get_template(name).render(board._asdict(), unnamed=unnamed)


def number(value: float | None) -> str:
    """Format as 12.3, with a true minus sign, or as a dash."""
    return "–" if value is None else f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Format as +1.2 or −1.2, or as – for None."""
    return "–" if value is None else f"{value:+.1f}".replace("-", "−")


def interval(ends: Sequence[float] | None, digits: int = 1) -> str:
    """Format as −1.2 to 3.4, or as – for None."""
    return "–" if ends is None else " to ".join(f"{end:.{digits}f}".replace("-", "−") for end in ends)


def short(dataset_id: str) -> str:
    """Return an id without the namespace that all of ours share."""
    return dataset_id.removeprefix("dom2/")


def matrices(listed: Sequence[Entry]) -> list[Matrix]:
    """One matrix for each environment, shift and fraction."""
    labels, by_row, found = tables.labels(listed), tables.rows(listed), []
    for env, shift, fraction in dict.fromkeys((e.env, e.shift, e.fraction) for e in listed):
        chosen = {key[1]: row for key, row in by_row.items() if key == (env, key[1], fraction, shift)}
        marks = {quality: marked(row) for quality, row in chosen.items()}
        rows = [
            (label, [(row.get(label), marks[quality].get(label, "")) for quality, row in chosen.items()])
            for label in labels
            if any(label in row for row in chosen.values())
        ]
        known = [(quality, next(iter(row.values()))) for quality, row in chosen.items()]
        found.append(Matrix(f"{env}, {figures.environment(shift, fraction)}", known, rows))
    return found


def marked(row: dict[str, Entry]) -> dict[str, str]:
    """The marks of the best columns (``tables.best``) by label."""
    best, certain = tables.best(row)
    return dict.fromkeys(best, "certain" if certain else "best")


def sections(
    grid: Grid, listed: Sequence[Entry], here: Sequence[Entry]
) -> list[tuple[str, list[figures.Picture]]]:
    """Non-empty groups of figures under their headings, with learning curves of the runs that are here."""
    kind = experiments.TARGETS[grid.target].figure
    own = {
        "fractions": ("Fewer trajectories", figures.fractions),
        "sweep": ("Settings varied one at a time", figures.sweeps),
    }
    heading, draw_own = own.get(kind, ("Returns as pictures", figures.returns))
    done = {} if kind == "sweep" else {grid.base / each.folder: each for each in here}
    logs = [(short(each.dataset), each.label, results.read(folder)) for folder, each in done.items()]
    found = [
        (heading, draw_own(listed)),
        ("By quality", figures.qualities(listed) if kind in ("scores", "fractions") else []),
        ("Performance profiles", figures.profiles(listed) if kind == "scores" else []),
        ("Standard and shifted", figures.gaps(listed)),
        ("While training", figures.curves(logs, tables.labels(listed))),
    ]
    return [(title, pictures) for title, pictures in found if pictures]


def films(grid: Grid, listed: Sequence[Entry]) -> list[tuple[str, str, list[str]]]:
    """Films of DOM2's agents, or else of the best ones, on the best data of each environment."""
    found = []
    for env in dict.fromkeys(each.env for each in listed):
        mine = [each for each in listed if each.env == env and each.shift == "none"]
        top = [each for each in mine if each.data == max(other.data for other in mine)]
        shown = next((each for each in top if each.label == "dom2"), max(top, key=lambda each: each.mean))
        film, stills = report.pictures(run.read(grid.base / shown.folder), episodes=1)
        if film:
            found.append((f"{shown.label} on {short(shown.dataset)}", film, stills))
    return found


def solutions(grid: Grid, listed: Sequence[Entry]) -> tuple[list[Entry], list[Found]]:
    """Figure 2: the entries with the solutions that each column finds from 64 initial states, and these next
    to the solutions of uniform actions. A run elsewhere has the earlier report's counts and no pictures."""
    if experiments.TARGETS[grid.target].figure != "solutions":
        return list(listed), []
    entries, found = [], []
    for each in listed:
        label = f"{each.label} on {short(each.dataset)}"
        if each.shift == "none" and each.report is None:
            trained = run.read(grid.base / each.folder)
            algorithm = evaluate.trained(trained)
            policies = [algorithm.policy(seed) for seed in range(trained.settings.seeds)]
            found.append(counted(label, each.env, policies))
            each = replace(each, solutions=found[-1].counts())
        elif each.solutions is not None:
            mean, std = (diversity.Solutions(**each.solutions[key]) for key in ("mean", "std"))
            found.append(Found(label, mean, std, []))
        entries.append(each)
    for env in dict.fromkeys(each.env for each in listed):
        found.append(counted(f"uniform actions in {env}", env, [Uniform(envs.spec(env).act_dim)]))
    return entries, found


def counted(label: str, name: str, policies: Sequence[Policy]) -> Found:
    """Count the solutions of each policy in an environment, and draw the first policy's final states."""
    counts, ends = [], []
    for number, policy in enumerate(policies):
        env: Any = envs.make(name, num_envs=64 * REPEATS)
        counts.append(diversity.solutions(policy, env, REPEATS))
        if number == 0:
            drawn = [Image.fromarray(draw(env, row)).resize((160, 160)) for row in range(4)]
            ends = [png(each.quantize(64)) for each in drawn]
    mean, std = (diversity.Solutions(*of(counts, axis=0).tolist()) for of in (np.mean, np.std))
    return Found(label, mean, std, ends)
