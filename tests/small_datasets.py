"""Small datasets for the tests of the data side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dom2data.dataset import Dataset, from_arrays
from dom2data.spec import Batch, EnvSpec
from dom2data.subsample import subsample


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def spec(horizon: int = 4, reward: Any = "individual") -> EnvSpec:
    return EnvSpec("tag", ("a", "b", "c"), (5, 5, 5), 2, -1.0, 1.0, horizon, reward, {"version": "test"})


def in_memory(
    lengths: list[int],
    horizon: int = 4,
    seed: int = 0,
    reward: Any = "individual",
    terminated: Any = None,
    truncated: Any = None,
) -> Dataset:
    """Episodes of given lengths; shorter than ``horizon``, they terminate, unless ``terminated`` says else.

    Of an observation, [0] is the step, [1] the episode, [2] the agent.
    """
    rng = np.random.default_rng(seed)
    steps, episodes = sum(lengths), len(lengths)
    observations = rng.normal(size=(steps + episodes, 3, 5)).astype(np.float32)
    observations[..., 0] = np.concatenate([np.arange(n + 1) for n in lengths])[:, None]
    observations[..., 1] = np.repeat(np.arange(episodes), np.array(lengths) + 1)[:, None]
    observations[..., 2] = np.arange(3)
    actions = rng.uniform(-1, 1, size=(steps, 3, 2)).astype(np.float32)
    rewards = rng.normal(size=(steps, 3)).astype(np.float32)
    rewards = rewards[:, :1].repeat(3, axis=1) if reward == "shared" else rewards
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    terminated = np.array(lengths) < horizon if terminated is None else terminated
    return from_arrays(
        spec(horizon, reward),
        observations,
        actions,
        rewards,
        offsets,
        terminated=terminated,
        truncated=truncated,
        env="tag",
        quality="medium",
        dataset_id="memory/small-v0",
    )


def drawn(batch: Batch, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """(step, episode) of a minibatch's transitions, both [M, B]; step is its number in the dataset."""
    step, episode = batch.obs[..., :2].long().unbind(dim=-1)
    return step + step.new_tensor(dataset.offsets)[episode], episode


def stored(root: Path, lengths: list[int], name: str = "small", force: bool = False, **how: Any) -> Dataset:
    """The same, written to disk (as the whole of itself)."""
    return subsample(in_memory(lengths, **how), 1.0, out=name, root=root, force=force)


def uneven(root: Path) -> Dataset:
    """Agents that observe differently much, with names that are not in alphabetical order."""
    spec = EnvSpec("pair", ("zeta", "alpha"), (3, 5), 2, -2.0, 2.0, 6, "individual", {"version": "test"})
    rng, lengths = np.random.default_rng(0), [6, 3, 5]
    observations = rng.normal(size=(14 + 3, 2, 5)).astype(np.float32)
    observations[:, 0, 3:] = 0.0
    whole = from_arrays(
        spec,
        observations,
        rng.uniform(-2, 2, (14, 2, 2)).astype(np.float32),
        rng.normal(size=(14, 2)).astype(np.float32),
        np.cumsum([0, *lengths]),
        terminated=np.array([False, True, False]),
    )
    return subsample(whole, 1.0, out="pair", root=root)
