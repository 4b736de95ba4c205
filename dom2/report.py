"""A self-contained HTML file about a run: data, settings, curves, returns, score, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from dom2 import checkpoint, evaluate, film, fit, track
from dom2 import run as runs
from dom2.run import Run
from dom2data import envs, new_file
from dom2data.errors import UserError
from dom2data.look.pictures import BLUE, PAGES, RED, canvas, gif, png, svg, uri
from dom2data.spec import Float32

_CURVES = {
    "Return while training": {"eval/return": "agents"},
    "Cloning loss": {"train/actor/bc": "policy"},
    "Q of the policy's and the data's actions": {"train/actor/q": "policy", "train/critic/q_data": "data"},
    "Squared TD error": {"train/critic/td": "critics"},
    "Conservative gap": {"train/critic/gap": "critics"},
}
"""metrics shared by several algorithms, by title; all others except norms appear under their own names"""
_STILLS, _FRAMES = 5, 100  # per episode
OWN = "report.html"


def write(run: Run, path: Path, root: Path | None = None, *, force: bool = False) -> None:
    """Write the report of a run; ``OWN`` in the run's folder is replaced even without ``force``.

    Raises UserError if the run has no checkpoint, another file exists, or the folder of ``path`` does not.
    """
    new_file.require(path, force or path.absolute() == (run.folder / OWN).absolute())
    evaluations = evaluate.kept(run.folder)
    evaluation = next((each for each in evaluations if each["shift"] == "none"), None)
    animation, stills = pictures(run)
    data = data_returns(run, root)
    loader = jinja2.FileSystemLoader([Path(__file__).parent, PAGES])
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    text = template.get_template("report.html").render(
        document=run.document,
        fingerprint=run.spec.fingerprint,
        status=run.status,
        updates=checkpoint.updates(run.folder),
        evaluation=evaluation,
        shifted=[(each, gap(each, evaluation)) for each in evaluations if each["shift"] != "none"],
        histogram=histogram(data, evaluation),
        has_data=data is not None,
        curves=curves(run),
        animation=animation,
        stills=stills,
    )
    runs.write(path, text)


def gap(shifted: dict[str, Any], standard: dict[str, Any] | None) -> float | None:
    """Change of the mean return under a shift; None unless both evaluations were made in the same way."""
    if standard is None or shifted["updates"] != standard["updates"]:
        return None
    if evaluate.way(shifted) != evaluate.way(standard):
        return None
    return float(shifted["return"]["mean"] - standard["return"]["mean"])


def data_returns(run: Run, root: Path | None) -> Float32 | None:
    """Returns of the data that the run learned from; None if it is gone or has changed."""
    try:
        return fit.data_of(run, root).returns
    except UserError:
        return None


def curves(run: Run) -> list[tuple[str, str]]:
    """(title, SVG as a data URI) of the metrics over updates: the mean over seeds, and their range."""
    lines = track.read(run.folder)
    every = dict.fromkeys(name for line in lines for name in line if name.startswith("train/"))
    titled = {name for names in _CURVES.values() for name in names}
    others = [name for name in every if name not in titled and not name.endswith("grad_norm")]
    drawn = _CURVES | {name.removeprefix("train/"): {name: ""} for name in others}
    pictures = []
    for title, names in drawn.items():
        shown = {name: label for name, label in names.items() if any(name in line for line in lines)}
        if not shown:
            continue
        figure, axes = canvas()
        for colour, (name, label) in zip((RED, BLUE), shown.items(), strict=False):
            updates = [line["update"] for line in lines if name in line]
            values = np.array([line[name] for line in lines if name in line])
            marker = "." if len(updates) < 3 else ""
            axes.fill_between(updates, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, lw=0)
            axes.plot(updates, values.mean(axis=1), color=colour, label=label, marker=marker)
        axes.set_xlabel("updates")
        if len(shown) > 1:
            axes.legend(frameon=False, fontsize=8)
        pictures.append((title, svg(figure)))
    return pictures


def histogram(data: Float32 | None, evaluation: dict[str, Any] | None) -> str | None:
    """Draw the densities of team returns of the data and of the evaluated agents, as an SVG data URI."""
    shown = {}
    if data is not None:
        shown["data"] = np.asarray(data, np.float64)
    if evaluation is not None:
        shown["agents"] = np.concatenate([seed["returns"] for seed in evaluation["per_seed"]])
    if not shown:
        return None
    figure, axes = canvas()
    together = np.concatenate(list(shown.values()))
    bins = np.linspace(together.min(), together.max() + 1e-9, 41)
    for label, values in shown.items():
        colour = BLUE if label == "data" else RED
        axes.hist(values, bins=bins.tolist(), density=True, color=colour, alpha=0.55, label=label)
        axes.axvline(float(values.mean()), color=colour, linewidth=1.5)
    axes.set(xlabel="team return per episode", ylabel="density")
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def pictures(run: Run, episodes: int = 2) -> tuple[str | None, list[str]]:
    """(GIF of the first seed's agents, stills of its first episode) as data URIs.

    None and [] if the environment cannot be drawn or has changed since.
    """
    name = run.document["dataset"]["env"]
    if name not in envs.KNOWN:
        return None, []
    try:
        runs.mismatch(run.spec, name)  # a film would not show that the environment has changed
    except UserError:
        return None, []
    drawn, _ = film.frames(run, run.settings.seed, episodes, stride=-(-run.spec.horizon // _FRAMES))
    first = np.linspace(0, len(drawn) // episodes - 1, _STILLS).round().astype(int)
    return uri("image/gif", gif(drawn, 100)), [png(Image.fromarray(drawn[i]).quantize(64)) for i in first]
