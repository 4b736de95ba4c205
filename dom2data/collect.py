"""Policy x environment -> a block of whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs, stats
from dom2data.spec import EnvSpec

if TYPE_CHECKING:
    from dom2_policies.policy import Policy
    from dom2data.rollout import Rows


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

    from dom2data.rollout import Rows, play, seed_of

    spec = envs.spec(job.env)
    seeds = np.random.SeedSequence(job.seed, spawn_key=(job.block,)).spawn(2 * len(job.policies))
    parts = []
    for part, (checkpoint, episodes) in enumerate(zip(job.policies, job.episodes, strict=True)):
        if episodes:
            env = envs.make(job.env, num_envs=episodes)
            generator = torch.Generator().manual_seed(seed_of(seeds[2 * part + 1]))
            policy = _policy(checkpoint, spec, job.noise)
            parts.append(play(env, env.reset(seed=seeds[2 * part]), policy, generator))
    rows = Rows._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    source = np.repeat(np.arange(len(job.episodes)), job.episodes)
    if envs.is_foreign(job.env):
        order = interleaved(job.episodes)
        rows, source = Rows._make(array[order] for array in rows), source[order]
    return flatten(spec, rows, source)


def interleaved(counts: Sequence[int]) -> NDArray[np.int64]:
    """An order of the parts' episodes in which any beginning holds nearly its share of each part."""
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return np.argsort(places, kind="stable")


def flatten(spec: EnvSpec, rows: Rows, source: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Episodes as the store's arrays; ``source`` [episodes] is the number of the policy that acted."""
    time = np.arange(spec.horizon + 1)
    taken = time[:-1] < rows.lengths[:, None]
    offsets = np.concatenate(([0], np.cumsum(rows.lengths)))
    rewards = rows.rewards[taken]
    team, agents = stats.episode_returns(spec, rewards, offsets[:-1])
    return {
        "observations": rows.observations[time <= rows.lengths[:, None]],
        "actions": rows.actions[taken],
        "rewards": rewards,
        "offsets": offsets,
        "returns": team,
        "agent_returns": agents,
        "terminated": rows.terminated,
        "truncated": rows.truncated,
        "source": source.astype(np.int64),
    }


def _policy(checkpoint: Path | None, spec: EnvSpec, noise: float) -> Policy:
    from dom2_policies.policy import Uniform, load_actor

    if checkpoint is None:
        return Uniform(spec.act_dim, spec.act_low, spec.act_high)
    return load_actor(checkpoint, noise)
