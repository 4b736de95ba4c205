"""A target's report: JSON, Markdown, and one HTML page with everything in it."""

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
    "other": "another run, or files of something else, in its place",
}
"""why a cell is not there"""

REPEATS = 16
"""episodes from each beginning, when solutions are counted"""


class Matrix(NamedTuple):
    """A table of one environment: algorithms down, of which there are many, and qualities across."""

    title: str
    qualities: list[tuple[str, Entry]]
    """with an entry that knows the data"""
    rows: list[tuple[str, list[tuple[Entry | None, str]]]]
    """an algorithm's entries, each with its mark: ``best``, ``certain`` or nothing"""


class Found(NamedTuple):
    """The solutions that a column finds, over its seeds."""

    label: str
    mean: diversity.Solutions
    std: diversity.Solutions
    ends: list[str]
    """pictures of the ends of four episodes of its first seed that begin alike"""

    def counts(self) -> dict[str, dict[str, float]]:
        return {"mean": self.mean._asdict(), "std": self.std._asdict()}


class Board(NamedTuple):
    """What the templates lay out."""

    document: dict[str, Any]
    matrices: list[Matrix]
    sections: list[tuple[str, list[figures.Picture]]]
    films: list[tuple[str, str, list[str]]]
    """title, animation, stills"""
    solutions: list[Found]


def write(
    grid: Grid, command: str, out: Path, earlier: tables.Earlier | None = None, name: str | None = None
) -> dict[str, Path]:
    """Write the report of what is done of a grid, here or in earlier reports; returns the files by kind.

    They are called by the target or by ``name``. Raises UserError (code 3) like ``tables.entries``.
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
    """A template of this folder, filled in."""
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
    """12.3, or a dash; a true minus sign."""
    return "–" if value is None else f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def signed(value: float | None) -> str:
    """+1.2 or −1.2, – where there is none."""
    return "–" if value is None else f"{value:+.1f}".replace("-", "−")


def interval(ends: Sequence[float] | None, digits: int = 1) -> str:
    """−1.2 to 3.4, – where there is none."""
    return "–" if ends is None else " to ".join(f"{end:.{digits}f}".replace("-", "−") for end in ends)


def short(dataset_id: str) -> str:
    """An id without the namespace that all of ours have."""
    return dataset_id.removeprefix("dom2/")


def matrices(listed: Sequence[Entry]) -> list[Matrix]:
    """One for each environment, shift and fraction."""
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
    """What ``tables.best`` says, by label."""
    best, certain = tables.best(row)
    return dict.fromkeys(best, "certain" if certain else "best")


def sections(
    grid: Grid, listed: Sequence[Entry], here: Sequence[Entry]
) -> list[tuple[str, list[figures.Picture]]]:
    """Figures under their headings, those that there is something for; curves of the runs that are here."""
    kind = experiments.TARGETS[grid.target].figure
    own = {
        "fractions": ("Fewer trajectories", figures.fractions),
        "sweep": ("Settings moved one at a time", figures.sweeps),
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
    """The agents of DOM2, or of what did best, on the best data of each environment."""
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
    """Figure 2: the entries with what each column finds from 64 beginnings, and that beside what uniform
    actions find. Of a run elsewhere it is what the earlier report says, without pictures."""
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
    """Solutions of each policy in an environment, and pictures of the first one's ends."""
    counts, ends = [], []
    for number, policy in enumerate(policies):
        env: Any = envs.make(name, num_envs=64 * REPEATS)
        counts.append(diversity.solutions(policy, env, REPEATS))
        if number == 0:
            drawn = [Image.fromarray(draw(env, row)).resize((160, 160)) for row in range(4)]
            ends = [png(each.quantize(64)) for each in drawn]
    mean, std = (diversity.Solutions(*of(counts, axis=0).tolist()) for of in (np.mean, np.std))
    return Found(label, mean, std, ends)
