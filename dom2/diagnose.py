"""Test which algorithms solve coordination games with a known optimum: small data and runs, exact scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dom2 import algorithms, evaluate, experiments, fit
from dom2data.envs import games
from dom2data.sampler import Thresholds

EPISODES, BATCH_SIZE = 200, 64
SOLVED = 0.9
"""A seed solves a game if its mean return is at least this share of the optimum."""


@dataclass(frozen=True)
class Verdict:
    """How an algorithm did in a game."""

    algorithm: str
    """or another column name of a table"""
    game: str
    data: games.Kind
    behaviour: float
    """mean return of the data, as a share of the optimum"""
    shares: tuple[float, ...]
    """mean return of each seed over 200 episodes, as a share of the optimum"""
    updates: int

    @property
    def mean(self) -> float:
        """Mean share over seeds."""
        return float(np.mean(self.shares))

    @property
    def solved(self) -> int:
        """Number of seeds that reach ``SOLVED`` of the optimum."""
        return sum(share >= SOLVED for share in self.shares)


def examine(column: str, game: str, kind: games.Kind, updates: int = 1000, seeds: int = 5) -> Verdict:
    """Train an algorithm's compact preset on a game's data and play it.

    ``column`` may be any column of a table, such as ``madiff-c``. Augmentation is the algorithm's default
    unless the column sets it. Raises UserError like ``experiments.column_of``.
    """
    dataset = games.data(game, kind)
    name, settings = experiments.column_of(column)
    chosen = _shorter(name, updates, dataset.spec.horizon) | dict(settings)
    thresholds = Thresholds(chosen.pop("augment", algorithms.load(name).augment))
    config = fit.configure(name, "compact", dataset.env, dataset.quality, chosen)
    algorithm, sampler = fit.assemble(
        name, config, dataset, thresholds, BATCH_SIZE, range(seeds), torch.device("cpu")
    )
    for _ in range(updates):
        algorithm.update(sampler.sample())
    returns = evaluate.play(algorithm, seeds, games.Game(game, EPISODES)).returns
    best = games.OPTIMUM[game]
    return Verdict(
        column,
        game,
        kind,
        float(dataset.returns.mean()) / best,
        tuple(float(share) for share in returns.mean(axis=1) / best),
        updates,
    )


def _shorter(name: str, updates: int, horizon: int) -> dict[str, Any]:
    """Settings that shorten stages and plans to fit into the updates and the game's steps."""
    if name == "madiff":
        return {"horizon": min(8, 2 * ((horizon + 1) // 2))}  # an even number of observations
    if name == "ma-sfbc":
        stages = {"behaviour_updates": max(1, updates // 2), "critic_updates": max(1, updates // 4)}
        return stages | {"bank": 1024}
    return {}
