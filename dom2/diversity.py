"""A policy's diversity: the spread of its actions relative to the data's, and its distinct solutions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dom2 import seeding
from dom2_policies.policy import Policy, acting
from dom2data.dataset import Dataset
from dom2data.envs.particle import ParticleEnv
from dom2data.rollout import play

REACHED = 0.3
"""A landmark is covered if an agent is within this distance: twice an agent's size of 0.15."""


class Solutions(NamedTuple):
    """Statistics of the final states of episodes that share an initial state."""

    distinct: float
    """mean over initial states of the number of different sets of landmarks that are covered at the end"""
    effective: float
    """the same, but weighted by how often each set occurs: exp of the entropy of the frequencies"""
    covered: float
    """mean number of landmarks covered at the end"""


def spread_ratio(
    policy: Policy, dataset: Dataset, seed: int = 0, states: int = 2000, draws: int = 32
) -> float:
    """Spread of the policy's actions about their mean, divided by the data's spread about the same mean.

    With mu(o) the mean of ``draws`` actions of the policy at an observation o of the data, it is
    sqrt(mean |a_pi - mu|^2 / mean |a_data - mu|^2): 1 for a perfect clone, 0 for a deterministic policy,
    below 1 also for one that has moved away from the data. The bias of a mean of few draws is corrected.
    """
    rng = np.random.default_rng(seed)
    step = rng.integers(len(dataset), size=states)
    episode = np.searchsorted(dataset.offsets, step, side="right") - 1
    obs = torch.from_numpy(dataset.array("observations")[step + episode])
    taken = torch.from_numpy(dataset.array("actions")[step])
    generator = seeding.generator(np.random.SeedSequence(seed), torch.device("cpu"))
    # One draw at a time: some policies make many candidates or a whole plan for each row.
    actions = torch.stack([policy.act(obs, generator) for _ in range(draws)])
    variance = actions.var(dim=0)  # unbiased
    away = (taken - actions.mean(dim=0)).square() - variance / draws
    return float((variance.mean() / away.mean().clamp_min(1e-12)).sqrt())


def solutions(policy: Policy, env: ParticleEnv, repeats: int = 32, seed: int = 0) -> Solutions:
    """Count the sets of landmarks that are ``covered``. Raises ValueError like ``covered``.

    This is of interest with more landmarks than agents, as in ``spread-6-landmarks`` (DOM2, Figure 1).
    """
    found = covered(policy, env, repeats, seed)
    distinct, effective = zip(*(_counts(ends) for ends in found), strict=True)
    return Solutions(float(np.mean(distinct)), float(np.mean(effective)), float(found.sum(axis=-1).mean()))


def covered(policy: Policy, env: ParticleEnv, repeats: int = 32, seed: int = 0) -> NDArray[np.bool_]:
    """Landmarks that agents cover at the end, in ``repeats`` episodes from each of E / ``repeats`` states.

    [states, repeats, L]. Raises ValueError unless the rows of ``env`` are a multiple of ``repeats``.
    """
    if env.num_envs % repeats:
        raise ValueError(f"expected a multiple of {repeats} rows, found {env.num_envs}")
    start, noise = np.random.SeedSequence(seed, spawn_key=(seeding.SOLUTIONS, 0)).spawn(2)
    env.reset(start)
    first = np.arange(0, env.num_envs, repeats).repeat(repeats)  # ``repeats`` consecutive rows each
    obs = env.load_state(*(array[first] for array in env.state))
    generator = seeding.generator(noise, torch.device("cpu"))
    play(env, obs, acting(policy, generator))
    agents, _, landmarks = env.state
    offsets = agents[:, : env.spec.n_agents, None] - landmarks[:, None]  # [E, N, L, 2]
    within = np.square(offsets).sum(axis=-1) < REACHED**2
    return within.any(axis=1).reshape(-1, repeats, offsets.shape[2])


def _counts(ends: NDArray[np.bool_]) -> tuple[int, float]:
    """Number of different rows, and exp of the entropy of their frequencies."""
    _, counts = np.unique(ends, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return len(counts), float(np.exp(-(shares * np.log(shares)).sum()))
