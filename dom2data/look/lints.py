"""Frequent problems of recorded data: duplicates, actions at their bounds, constant observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.dataset import Dataset


@dataclass(frozen=True)
class Lints:
    """Counts and fractions over a whole dataset."""

    duplicate_episodes: int
    """episodes whose observations and actions equal those of an earlier one"""
    duplicate_starts: int
    """episodes with the same first observation as an earlier one: a repeated seed"""
    duplicate_steps: int
    """steps whose joint observation and action equal those of an earlier one"""
    clipped: dict[str, float]
    """by agent, the fraction of action components at a bound"""
    constant: dict[str, list[int]]
    """by agent, the constant dimensions of its observation"""


def lints(dataset: Dataset) -> Lints:
    """Check the whole dataset. Copies are found by 64-bit hashes (error probability 1e-7 for 10^6 steps)."""
    spec = dataset.spec
    observations, actions = dataset.array("observations"), dataset.array("actions")
    episode = np.repeat(np.arange(dataset.n_episodes), dataset.lengths)
    seen = hashes(observations)
    steps = mixed(seen[np.arange(len(actions)) + episode], hashes(actions))
    starts = seen[dataset.offsets[:-1] + np.arange(dataset.n_episodes)]
    order = np.arange(len(steps), dtype=np.uint64) - dataset.offsets[:-1].astype(np.uint64)[episode]
    whole = np.add.reduceat(mixed(steps, scattered(order)), dataset.offsets[:-1])
    bounds = (actions <= spec.act_low) | (actions >= spec.act_high)
    low, high = observations.min(axis=0), observations.max(axis=0)
    names = list(enumerate(spec.agent_names))
    return Lints(
        copies(whole),
        copies(starts),
        copies(steps),
        {name: float(bounds[:, i].mean()) for i, name in names},
        {name: np.flatnonzero((low == high)[i, : spec.obs_dims[i]]).tolist() for i, name in names},
    )


def copies(keys: NDArray[np.uint64]) -> int:
    """Return how many keys equal an earlier one."""
    return len(keys) - len(np.unique(keys))


def hashes(array: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of every row of a float32 array [rows, ...]; 0.0 and -0.0 count as different."""
    words = np.ascontiguousarray(array).view(np.uint32).reshape(len(array), -1)
    found = np.zeros(len(array), np.uint64)
    for column in range(words.shape[1]):
        found = mixed(found, words[:, column].astype(np.uint64))
    return found


def mixed(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of two numbers that depends on their order."""
    return scattered(one * np.uint64(0x9E3779B97F4A7C15) + other)


def scattered(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
