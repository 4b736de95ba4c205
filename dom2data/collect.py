"""Collect blocks of whole episodes by rolling out policies in an environment."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs, stats
from dom2data.allocation import keep_freed_memory
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.spec import EnvSpec

if TYPE_CHECKING:
    from dom2_policies.frozen import Act, Draws
    from dom2data.rollout import Rows


@dataclass(frozen=True)
class Job:
    """One block: the policies that act, the number of episodes of each, and the seed of all randomness."""

    env: str
    policies: tuple[Path | None, ...]
    """checkpoint files; None is the uniform policy"""
    episodes: tuple[int, ...]
    """number of episodes per policy, in the order of ``policies``"""
    noise: float
    seed: int
    block: int
    fingerprint: str | None = None
    """of the environment that is meant; None: accept whatever the name refers to"""


def share(shares: Sequence[float], start: int, stop: int) -> tuple[int, ...]:
    """Return how many of the episodes ``start:stop`` belong to each part.

    Rounding is cumulative: every block holds its share, and the total is exact up to one episode.
    """
    ends = np.cumsum((0.0, *shares)) / sum(shares)
    counts = np.floor(ends * stop + 0.5) - np.floor(ends * start + 0.5)
    return tuple(int(n) for n in np.diff(counts))


def collect_block(job: Job) -> dict[str, NDArray[Any]]:
    """Roll out a job's episodes, those of each policy as rows of one environment; return the store's arrays.

    All randomness derives from ``SeedSequence(seed, spawn_key=(block,))``, spawned for the environment and
    the policy of each part, so blocks depend neither on each other nor on the worker.

    Raises UserError (code 3) if the name refers to another environment than the one that is meant.
    """
    from dom2_policies.frozen import Draws
    from dom2data.rollout import Rows, play, seed_of

    keep_freed_memory()

    seeds = np.random.SeedSequence(job.seed, spawn_key=(job.block,)).spawn(2 * len(job.policies))
    parts = []
    for part, (checkpoint, episodes) in enumerate(zip(job.policies, job.episodes, strict=True)):
        if episodes:
            with envs.closing(envs.make(job.env, num_envs=episodes)) as env:
                _require_meant(job, env.spec)
                act = _policy(checkpoint, env.spec, job.noise, Draws(seed_of(seeds[2 * part + 1])))
                parts.append(play(env, env.reset(seed=seeds[2 * part]), act))
    rows = parts[0]
    if len(parts) > 1:
        rows = Rows._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    source = np.repeat(np.arange(len(job.episodes)), job.episodes)
    if envs.is_foreign(job.env):
        order = interleaved(job.episodes)
        rows, source = Rows._make(array[order] for array in rows), source[order]
    return flatten(env.spec, rows, source)


def interleaved(counts: Sequence[int]) -> NDArray[np.int64]:
    """Return an order of the parts' episodes in which every prefix has nearly the ratio of the whole."""
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return np.argsort(places, kind="stable")


def flatten(spec: EnvSpec, rows: Rows, source: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Convert episodes to the store's arrays; ``source`` [episodes] is the number of the acting policy."""
    time = np.arange(spec.horizon + 1)
    offsets = np.concatenate(([0], np.cumsum(rows.lengths)))

    def joined(values: NDArray[Any], more: int) -> NDArray[Any]:
        """Concatenate the first ``lengths + more`` entries of every row."""
        if (rows.lengths == spec.horizon).all():
            return values.reshape(-1, *values.shape[2:])  # no copy
        return values[time[: spec.horizon + more] < rows.lengths[:, None] + more]

    rewards = joined(rows.rewards, 0)
    team, agents = stats.episode_returns(spec, rewards, offsets[:-1])
    return {
        "observations": joined(rows.observations, 1),
        "actions": joined(rows.actions, 0),
        "rewards": rewards,
        "offsets": offsets,
        "returns": team,
        "agent_returns": agents,
        "terminated": rows.terminated,
        "truncated": rows.truncated,
        "source": source.astype(np.int64),
    }


def _require_meant(job: Job, spec: EnvSpec) -> None:
    """Raises UserError if this worker imported another version of a user's file (edited, or another copy)."""
    if job.fingerprint not in (None, spec.fingerprint):
        raise UserError(
            f"{job.env}: expected the environment as planned (fingerprint {job.fingerprint}), found another "
            f"({spec.fingerprint}) in a worker on {socket.gethostname()}; leave its file as it is while data "
            "are made, and have the same on every machine",
            CHECK_FAILED,
        )


def _policy(checkpoint: Path | None, spec: EnvSpec, noise: float, draws: Draws) -> Act:
    from dom2_policies import frozen

    if checkpoint is None:
        return frozen.Uniform(spec.act_dim, spec.act_low, spec.act_high, draws)
    return frozen.load(checkpoint, noise, draws)
