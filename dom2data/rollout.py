"""Roll out a policy in a batch of environments, whole episodes at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dom2_policies.frozen import Act
from dom2data.spec import Bool, Float32, VectorEnv


class Rows(NamedTuple):
    """One episode per row. After its end, a row repeats its last observation, with rewards of zero."""

    observations: Float32  # [E, T+1, N, O]
    actions: Float32  # [E, T, N, A]
    rewards: Float32  # [E, T, N]
    lengths: NDArray[np.int64]  # [E], in 1..T
    terminated: Bool  # [E]
    truncated: Bool  # [E]


def play(env: VectorEnv, obs: Float32, act: Act) -> Rows:
    """Play one episode in every row, starting from ``obs``, the observations of ``reset``; T = horizon."""
    spec, e = env.spec, env.num_envs
    observations = np.empty((e, spec.horizon + 1, spec.n_agents, spec.obs_dim), np.float32)
    actions = np.zeros((e, spec.horizon, spec.n_agents, spec.act_dim), np.float32)
    rewards = np.zeros((e, spec.horizon, spec.n_agents), np.float32)
    lengths = np.zeros(e, np.int64)
    terminated, truncated = np.zeros((2, e), bool)
    observations[:, 0] = obs
    for t in range(spec.horizon):
        actions[:, t] = act(obs)
        running = ~(terminated | truncated)
        obs, rewards[:, t], terminated, truncated = env.step(actions[:, t])
        observations[:, t + 1] = obs
        lengths += running
        if (terminated | truncated).all():
            observations[:, t + 2 :] = obs[:, None]
            break
    return Rows(observations, actions, rewards, lengths, terminated, truncated)


def seed_of(sequence: np.random.SeedSequence) -> int:
    """Return a seed for a random generator, derived from a SeedSequence."""
    return int(sequence.generate_state(1, np.uint64)[0])
