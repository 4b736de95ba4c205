"""Roll a policy out in a batch of environments, whole episodes at a time."""

from __future__ import annotations

import numpy as np
import torch

from dom2_policies.policy import Policy
from dom2data.spec import EnvSpec, Float32, VectorEnv

Trajectories = tuple[Float32, Float32, Float32]


def rollout(env: VectorEnv, obs: Float32, policy: Policy, generator: torch.Generator) -> Trajectories:
    """One episode in every row, from the observations that ``reset`` returned until the horizon.

    Returns observations [E, T+1, N, O], actions [E, T, N, A] and rewards [E, T, N].
    """
    spec, e = env.spec, env.num_envs
    observations = np.empty((e, spec.horizon + 1, spec.n_agents, spec.obs_dim), np.float32)
    actions = np.empty((e, spec.horizon, spec.n_agents, spec.act_dim), np.float32)
    rewards = np.empty((e, spec.horizon, spec.n_agents), np.float32)
    observations[:, 0] = obs
    for t in range(spec.horizon):
        actions[:, t] = policy.act(torch.from_numpy(obs), generator).numpy()
        obs, rewards[:, t], _, _ = env.step(actions[:, t])
        observations[:, t + 1] = obs
    return observations, actions, rewards


def seed_of(sequence: np.random.SeedSequence) -> int:
    """A seed for a torch generator."""
    return int(sequence.generate_state(1, np.uint64)[0])


def team_returns(rewards: Float32, spec: EnvSpec) -> Float32:
    """Undiscounted team return [E] of rewards [E, T, N]."""
    return spec.team(rewards.sum(axis=1))
