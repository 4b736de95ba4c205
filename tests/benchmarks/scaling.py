"""How cost grows with agents, environments, seeds and the size of a dataset, as a figure and a table.

``python tests/benchmarks/scaling.py docs/images/scaling.png``; one thread, the best of several runs of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import best

from dom2 import fit, pace
from dom2data import dataset, envs
from dom2data.sampler import Sampler, Thresholds

CPU = torch.device("cpu")
B = 256
AGENTS = (3, 4, 6, 8, 10)
ENVIRONMENTS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
SEEDS = (1, 2, 3, 5, 8)
STEPS = (10_000, 100_000, 1_000_000, 5_000_000)
ALGORITHMS = ("dom2", "ma-cql", "bc")


class Curve(NamedTuple):
    """One line of one panel: cost (``unit``) at each x, and what growing in proportion would be named."""

    panel: str
    label: str
    x: list[int]
    y: list[float]
    unit: str


def update(name: str, env: str, seeds: int) -> float:
    """Milliseconds of an update."""
    config = fit.configure(name, "compact", env, "medium", {})
    made, sampler = fit.assemble(
        name, config, pace.noise(env, 2000), Thresholds("none"), B, range(seeds), CPU
    )
    (seconds,) = best(lambda: made.update(sampler.sample()), times=8)
    return 1e3 * seconds


def curves() -> Iterator[Curve]:
    for name in ALGORITHMS:
        teams = [f"spread-{n}" if n > 3 else "spread" for n in AGENTS]
        yield Curve("agents", name, list(AGENTS), [update(name, env, 1) for env in teams], "ms an update")
    for name in ALGORITHMS:
        times = [update(name, "tag", s) / s for s in SEEDS]
        yield Curve("seeds in a stack", name, list(SEEDS), times, "ms an update of each seed")
    for name in ("tag", "world", "spread"):
        yield Curve(
            "environments",
            name,
            list(ENVIRONMENTS),
            [step(name, n) for n in ENVIRONMENTS],
            "µs a step of each",
        )
    found = [draws(steps) for steps in STEPS]
    yield Curve(
        "transitions in the dataset", "minibatch", list(STEPS), [t for t, _ in found], "µs a minibatch"
    )
    yield Curve(
        "transitions in the dataset", "first: weights, tables", list(STEPS), [t for _, t in found], "ms, once"
    )


def step(name: str, num_envs: int) -> float:
    """Microseconds of a step of one environment among ``num_envs``, its agents given actions."""
    env = envs.make(name, num_envs=num_envs)
    actions = np.random.default_rng(0).uniform(-1, 1, (num_envs, env.spec.n_agents, env.spec.act_dim))
    actions = actions.astype(np.float32)

    def episode() -> None:
        env.reset()
        for _ in range(env.spec.horizon):
            env.step(actions)

    (seconds,) = best(episode, times=5)
    return 1e6 * seconds / env.spec.horizon / num_envs


def draws(steps: int) -> tuple[float, float]:
    """(µs of a minibatch of three agents, ms of making the sampler) of random data in tag's shape."""
    spec, rng = envs.spec("tag"), np.random.default_rng(0)
    episodes, n = steps // 25, spec.n_agents
    data = dataset.from_arrays(
        spec,
        rng.standard_normal((steps + episodes, n, spec.obs_dim), np.float32),
        np.zeros((steps, n, spec.act_dim), np.float32),
        rng.standard_normal((steps, n), np.float32),
        np.arange(episodes + 1) * 25,
        env="tag",
    )
    made: list[Any] = []

    def make() -> None:
        made[:] = [Sampler(data, Thresholds(), B, [torch.Generator().manual_seed(0)])]

    (start,) = best(make, times=2)
    (drawn,) = best(lambda: made[0].sample(), times=300)
    return 1e6 * drawn, 1e3 * start


def draw(found: list[Curve], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys(curve.panel for curve in found))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        lines = [curve for curve in found if curve.panel == panel]
        for curve in lines:
            axis.plot(curve.x, curve.y, "o-", markersize=3, label=f"{curve.label} ({curve.unit})")
        axis.set(xlabel=panel, xscale="log", yscale="log")
        if max(lines[0].x) <= 10:
            axis.set_xticks(lines[0].x, map(str, lines[0].x))
            axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6.5)
    figure.savefig(file, dpi=110)


def table(found: list[Curve], write: Callable[[str], None]) -> None:
    for curve in found:
        cells = ", ".join(f"{x:,}: {y:,.3g}" for x, y in zip(curve.x, curve.y, strict=True))
        write(f"| {curve.panel} | {curve.label} | {curve.unit} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    torch.set_num_threads(1)
    found = list(curves())
    draw(found, file)
    table(found, print)


if __name__ == "__main__":
    main()
