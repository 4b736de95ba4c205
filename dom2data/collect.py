"""Policy x environment -> a block of whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs, stats
from dom2data.spec import EnvSpec, Float32

if TYPE_CHECKING:
    from dom2_policies.policy import Policy


@dataclass(frozen=True)
class Job:
    """One block: which policies act, in how many episodes each, and the seed it all follows from."""

    env: str
    policies: tuple[Path | None, ...]
    """checkpoint files; None is the uniform policy"""
    episodes: tuple[int, ...]
    """of each policy, one after another"""
    noise: float
    seed: int
    block: int


def share(shares: Sequence[float], start: int, stop: int) -> tuple[int, ...]:
    """How many of the episodes start..stop belong to each part.

    Rounded cumulatively, so that every block holds its share and the whole is exact to one episode.
    """
    ends = np.cumsum((0.0, *shares)) / sum(shares)
    counts = np.floor(ends * stop + 0.5) - np.floor(ends * start + 0.5)
    return tuple(int(n) for n in np.diff(counts))


def collect_block(job: Job) -> dict[str, NDArray[Any]]:
    """Roll out a job's episodes, each policy's as rows of one environment; arrays as in the store.

    Everything random follows from ``SeedSequence(seed, spawn_key=(block,))``, spawned for the environment and
    the policy of each part: blocks depend neither on each other nor on who collects them.
    """
    import torch

    from dom2data.rollout import rollout, seed_of

    spec = envs.spec(job.env)
    seeds = np.random.SeedSequence(job.seed, spawn_key=(job.block,)).spawn(2 * len(job.policies))
    parts = []
    for part, (checkpoint, episodes) in enumerate(zip(job.policies, job.episodes, strict=True)):
        if episodes:
            env = envs.make(job.env, num_envs=episodes)
            generator = torch.Generator().manual_seed(seed_of(seeds[2 * part + 1]))
            policy = _policy(checkpoint, spec, job.noise)
            parts.append(rollout(env, env.reset(seed=seeds[2 * part]), policy, generator))
    observations, actions, rewards = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return flatten(
        spec, observations, actions, rewards, np.repeat(np.arange(len(job.episodes)), job.episodes)
    )


def flatten(
    spec: EnvSpec, observations: Float32, actions: Float32, rewards: Float32, source: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Episodes [Ep, T+1, N, O], [Ep, T, N, A], [Ep, T, N] as the store's arrays, without offsets.

    They last the full horizon, as in all environments here, so each ended by its time limit (truncated).
    ``source`` [Ep] is the number of the policy that acted.
    """
    episodes, horizon = rewards.shape[:2]
    flat = rewards.reshape(-1, spec.n_agents)
    team, agents = stats.episode_returns(spec, flat, np.arange(episodes) * horizon)
    return {
        "observations": observations.reshape(-1, spec.n_agents, spec.obs_dim),
        "actions": actions.reshape(-1, spec.n_agents, spec.act_dim),
        "rewards": flat,
        "returns": team,
        "agent_returns": agents,
        "terminated": np.zeros(episodes, bool),
        "truncated": np.ones(episodes, bool),
        "source": source.astype(np.int64),
    }


def _policy(checkpoint: Path | None, spec: EnvSpec, noise: float) -> Policy:
    from dom2_policies.policy import Uniform, load_actor

    if checkpoint is None:
        return Uniform(spec.act_dim, spec.act_low, spec.act_high)
    return load_actor(checkpoint, noise)
