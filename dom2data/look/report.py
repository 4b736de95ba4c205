"""A self-contained HTML page about a dataset: returns, actions, coverage, states, lints, episodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dom2data import catalog, new_file
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.look import coverage, lints, scenes
from dom2data.look.pictures import BLUE, RED, blank, canvas, gif, plain, png, svg, uri

QUANTILES = (0.05, 0.5, 0.95)
"""quantiles of the returns at which episodes are shown"""
STATES = 200_000
_STILLS = 5
_COLOURS = (BLUE, RED, "#2f8f5b", "#f2b705", "#8d6cab", "#55524b")
_LANDMARKS = "landmarks"


@dataclass(frozen=True)
class Shown:
    """An episode as an animation, and as still images for printing."""

    title: str
    animation: str
    stills: list[str]


def write(dataset: Dataset, base: Path | str, path: Path, *, force: bool = False, seed: int = 0) -> None:
    """Write the page. ``base`` is the dataset's root; ``seed`` is for sampling steps for the larger figures.

    Raises UserError (code 2) when ``path`` exists and ``force`` is false, or has no folder.
    """
    new_file.require(path, force)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    episodes, silent = animations(dataset)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    text = template.get_template("report.html").render(
        summary=catalog.summary(dataset.manifest, base),
        sources=by_source(dataset),
        pictures=[
            ("Team return per episode, by policy", returns_histogram(dataset)),
            ("Team return in the order of recording", order(dataset)),
            ("Return of each agent", agents_histogram(dataset)),
        ],
        actions=action_marginals(dataset),
        states=states(dataset, rng),
        coverage=coverage.coverage(dataset, seed),
        reference=coverage.REFERENCE,
        lints=lints.lints(dataset),
        components=len(dataset) * dataset.spec.act_dim,
        episodes=episodes,
        silent=silent,
        replayed=scenes.particles(dataset) is None,
    )
    with new_file.replacing(path) as partial:
        partial.write_text(text)


def labels(dataset: Dataset) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return (name, mask [episodes]) for each policy that recorded episodes."""
    source, names = dataset.array("source"), dataset.manifest.get("sources") or []
    return [(str(names[k]) if 0 <= k < len(names) else f"source {k}", source == k) for k in np.unique(source)]


def by_source(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the number of episodes and statistics of their returns, by policy."""
    rows = []
    for name, mine in labels(dataset):
        returns = dataset.returns[mine].astype(np.float64)
        low, middle, high = np.quantile(returns, QUANTILES)
        facts = {"name": name, "episodes": int(mine.sum()), "mean": returns.mean(), "std": returns.std()}
        rows.append(facts | {"low": low, "median": middle, "high": high})
    return rows


def returns_histogram(dataset: Dataset) -> str:
    """Plot team returns, stacked by policy; dotted lines are published references nearby."""
    figure, axes = canvas()
    named = labels(dataset)
    axes.hist(
        [dataset.returns[mine] for _, mine in named],
        bins=edges(dataset.returns),
        stacked=True,
        color=[_COLOURS[i % len(_COLOURS)] for i in range(len(named))],
        label=[name for name, _ in named],
    )
    low, high = axes.get_xlim()
    room = 0.5 * (high - low)  # a reference further away would leave the data no space
    for name, value in (dataset.manifest["references"].get("published") or {}).items():
        if not low - room < value < high + room:
            continue
        axes.axvline(value, color="black", linestyle=":", linewidth=1)
        axes.annotate(name, (value, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
                      ha="right", va="top")  # fmt: skip
    axes.set(xlabel="team return", ylabel="episodes")
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def edges(values: NDArray[Any]) -> list[float]:
    """Return the edges of 50 histogram bins, also if all values are equal."""
    return np.linspace(float(values.min()), float(values.max()) + 1e-6, 51).tolist()


def order(dataset: Dataset) -> str:
    """Plot mean returns of 200 consecutive groups of episodes: learning shows as a slope, blocks as steps."""
    figure, axes = canvas()
    parts = np.array_split(dataset.returns.astype(np.float64), min(200, dataset.n_episodes))
    starts = np.cumsum([0] + [len(part) for part in parts])[:-1]
    axes.plot(starts, [part.mean() for part in parts], color=BLUE, linewidth=1)
    axes.set(xlabel="episode", ylabel=f"team return, mean of {len(parts[0])}")
    return svg(figure)


def agents_histogram(dataset: Dataset) -> str:
    """Plot every agent's returns as outlines; a single one for a shared reward."""
    figure, axes = canvas()
    names = dataset.spec.agent_names
    for i, name in enumerate(["each agent (shared)"] if dataset.spec.reward == "shared" else names):
        colour = _COLOURS[i % len(_COLOURS)]
        axes.hist(
            dataset.agent_returns[:, i],
            bins=edges(dataset.agent_returns),
            histtype="step",
            color=colour,
            label=name,
        )
    axes.set(xlabel="return", ylabel="episodes")
    if dataset.spec.n_agents <= len(_COLOURS):
        axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def action_marginals(dataset: Dataset) -> str:
    """Plot a histogram per agent and action dimension, over the whole action range."""
    spec, actions = dataset.spec, dataset.array("actions")
    columns = min(spec.act_dim, 12)
    figure = blank(1.6 * columns + 0.6, 1.1 * spec.n_agents + 0.5)
    grid = figure.subplots(spec.n_agents, columns, squeeze=False, sharex=True)
    for i, name in enumerate(spec.agent_names):
        for k in range(columns):
            axes = grid[i, k]
            axes.hist(
                actions[:, i, k], bins=40, range=(spec.act_low, spec.act_high), density=True, color=BLUE
            )
            axes.set_yticks([])
            plain(axes)
            axes.spines["left"].set_visible(False)
            if k == 0:
                axes.set_ylabel(name, fontsize=8)
            if i == spec.n_agents - 1:
                axes.set_xlabel(f"action {k}", fontsize=8)
    return svg(figure)


def states(dataset: Dataset, rng: np.random.Generator) -> tuple[str, str]:
    """Return (caption, picture): particle positions, or two principal components of the observations."""
    scenario = scenes.particles(dataset)
    rows = coverage.sampled(len(dataset.array("observations")), STATES, rng)
    observations = dataset.array("observations")[rows]
    if scenario is not None:
        found, landmarks = scenes.positions(scenario, observations)
        names = [*dataset.spec.agent_names, "prey"][: found.shape[1]]
        planes = {name: found[:, i] for i, name in enumerate(names)}
        planes[_LANDMARKS] = landmarks.reshape(-1, 2)
        edge = 1.6 * scenario.agent_range
        return "Positions (brighter: more often; logarithmic).", heat(planes, edge)
    planes = {
        name: components(observations[:, i, : dataset.spec.obs_dims[i]])
        for i, name in enumerate(dataset.spec.agent_names)
    }
    text = "First two principal components of each agent's observations (brighter: more often; logarithmic)."
    return text, heat(planes, None)


def components(values: NDArray[Any]) -> NDArray[np.float64]:
    """Project values [S, D], scaled to variance 1, onto their first two principal components [S, 2]."""
    scale = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    _, vectors = np.linalg.eigh(np.cov(values, rowvar=False).reshape(values.shape[1], -1))
    plane = values @ vectors[:, ::-1][:, :2]
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def heat(planes: dict[str, NDArray[Any]], edge: float | None) -> str:
    """Plot a panel per cloud of points [S, 2]; ``edge`` is the half width shown; None fits the points."""
    columns = min(5, len(planes))
    lines = -(-len(planes) // columns)
    figure = blank(1.9 * columns, 2.0 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (name, points) in zip(grid, planes.items(), strict=False):
        low, high = (-edge, edge) if edge else np.quantile(points, (0.001, 0.999))
        if not high > low:
            low, high = low - 1.0, high + 1.0
        counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=64, range=((low, high), (low, high)))
        axes.imshow(
            np.log1p(counts.T),
            origin="lower",
            cmap="magma",
            extent=(low, high, low, high),
            interpolation="none",
        )
        axes.set_title(name, fontsize=8)
    return svg(figure)


def animations(dataset: Dataset) -> tuple[list[Shown], str]:
    """Return the episodes at ``QUANTILES`` of the returns and ""; or none and the reason."""
    from dom2data.look import play

    ranked = np.argsort(dataset.returns, kind="stable")
    shown = []
    for q in QUANTILES:
        episode = int(ranked[round(q * (dataset.n_episodes - 1))])
        stride = max(1, int(dataset.lengths[episode]) // 100)
        try:
            pictures = play.frames(dataset, episode, stride)
        except UserError as error:
            return [], error.message
        small = [
            np.asarray(Image.fromarray(p).resize((300, 300), Image.Resampling.LANCZOS)) for p in pictures
        ]
        which = np.linspace(0, len(small) - 1, _STILLS).round().astype(int)
        stills = [png(Image.fromarray(small[i]).quantize(64)) for i in which]
        title = f"Episode {episode}, return {dataset.returns[episode]:.1f} ({100 * q:.0f} % quantile)"
        shown.append(Shown(title, uri("image/gif", gif(small, 100)), stills))
    return shown, ""
