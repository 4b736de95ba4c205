"""Coverage measures for datasets, which do not saturate for continuous actions.

The fraction of distinct state-action pairs is 1 for every continuous dataset, so it says nothing. These three
are informative: the effective share of the action box, the effective number of dimensions in which
observations vary, and the distance of a step to the nearest step of another episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.dataset import Dataset

CELLS = 400
"""approximate number of cells that the action box is divided into"""
STEPS, QUERIES, REFERENCE = 200_000, 1_000, 20_000


@dataclass(frozen=True)
class Coverage:
    """The measures for one agent."""

    actions: float
    """exp(entropy over the cells of the action box) / number of cells: 1 is uniform, 1/cells one point"""
    dimensions: float
    """participation ratio (sum l)^2 / sum l^2 of the eigenvalues l of the observations' correlation matrix
    (constant dimensions are left out)"""
    novelty: float
    """median distance of a step (observation and action, each dimension divided by its standard deviation) to
    the nearest of ``REFERENCE`` steps that is in another episode, divided by the median distance of two
    steps; 0 for copies. The number of steps is fixed, so that datasets of different sizes are comparable."""


def coverage(dataset: Dataset, seed: int = 0) -> dict[str, Coverage]:
    """Return every agent's coverage, by name, from at most ``STEPS`` steps drawn by ``seed``."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    rows = sampled(len(dataset), STEPS, rng)
    episode = np.searchsorted(dataset.offsets, rows, side="right") - 1
    observations, actions = dataset.array("observations")[rows + episode], dataset.array("actions")[rows]
    spec, found = dataset.spec, {}
    for i, name in enumerate(spec.agent_names):
        obs, act = observations[:, i, : spec.obs_dims[i]].astype(np.float64), actions[:, i].astype(np.float64)
        found[name] = Coverage(
            effective_share(act, spec.act_low, spec.act_high),
            effective_dimensions(obs),
            novelty(np.concatenate([obs, act], axis=1), episode, rng),
        )
    return found


def sampled(n: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw at most ``most`` of n row numbers; ascending."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def effective_share(actions: NDArray[Any], low: float, high: float) -> float:
    """Return exp(entropy) of the cells in [low, high]^A of actions [S, A], divided by the number of cells."""
    width = actions.shape[1]
    bins = max(2, int(CELLS ** (1 / width)))
    shared = min(width, 12)  # use only the first dimensions: no dataset fills the cells of more
    cells = np.clip(((actions[:, :shared] - low) / (high - low) * bins).astype(np.int64), 0, bins - 1)
    _, counts = np.unique(cells @ bins ** np.arange(shared), return_counts=True)
    p = counts / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()) / bins**shared)


def effective_dimensions(values: NDArray[Any]) -> float:
    """Return the participation ratio of values [S, D]; 0 if all are constant."""
    moving = values[:, values.std(axis=0) > 0]
    if moving.shape[1] == 0:
        return 0.0
    if moving.shape[1] == 1:
        return 1.0
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(moving, rowvar=False))
    return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())


def novelty(values: NDArray[Any], episode: NDArray[Any], rng: np.random.Generator) -> float:
    """Return the novelty of values [S, D], in ``episode`` [S]; 0 if all are equal or in one episode."""
    scale = values.std(axis=0)
    # Centre first: squares of large numbers would leave float32 no digits for differences.
    values = ((values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0)).astype(np.float32)
    reference = sampled(len(values), REFERENCE, rng)
    queries = sampled(len(values), QUERIES, rng)
    nearest, typical = [], []
    for part in np.array_split(queries, max(1, len(queries) // 100)):
        squares = np.square(values[part]).sum(1)[:, None] + np.square(values[reference]).sum(1)
        distance = np.sqrt(np.maximum(squares - 2 * values[part] @ values[reference].T, 0.0))
        others = episode[part][:, None] != episode[reference]
        nearest.append(np.where(others, distance, np.inf).min(axis=1))
        typical.append(np.median(distance, axis=1))
    closest, apart = np.concatenate(nearest), float(np.median(np.concatenate(typical)))
    if not np.isfinite(closest).all() or apart == 0.0:
        return 0.0
    return float(np.median(closest) / apart)
