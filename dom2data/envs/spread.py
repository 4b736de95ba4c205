"""Spread (cooperative navigation) as in the published offline datasets: three agents, three landmarks.

Variants have four to ten agents, which the published code supports, or six landmarks (DOM2, Figure 1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from dom2_policies.compiled import compiled
from dom2data.envs.particle import Scenario
from dom2data.envs.physics import Float64, look_around
from dom2data.spec import Float32

SIZE = 0.15


@cache
def kernels(n_agents: int, n_landmarks: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return ``observe`` and ``reward``, compiled for these numbers."""

    @compiled(nogil=True)
    def observe(pos: Float64, vel: Float64, landmarks: Float64, obs: Float32, prey_obs: Float32) -> None:
        """(4 + 2 L + 4 (N - 1)): velocity, position, landmarks and other agents relative to the observer, 0.

        The zeros stand for the other agents' messages, two entries each, which the published code includes
        although nobody sends any.
        """
        for e in range(pos.shape[0]):
            for a in range(n_agents):
                row = obs[e, a]
                k = look_around(pos, vel, landmarks, e, a, n_agents, n_landmarks, row)
                for i in range(2 * (n_agents - 1)):
                    row[k + i] = 0.0

    @compiled(nogil=True, error_model="numpy")
    def reward(pos: Float64, landmarks: Float64, rewards: Float32, prey_rewards: Float32) -> None:
        """Each landmark pays everybody min(1 / distance of its nearest agent, 10); each contact costs 5."""
        for e in range(pos.shape[0]):
            shared = 0.0
            for b in range(n_landmarks):
                nearest = np.inf
                for a in range(n_agents):
                    dx, dy = pos[e, a, 0] - landmarks[e, b, 0], pos[e, a, 1] - landmarks[e, b, 1]
                    nearest = min(nearest, dx * dx + dy * dy)
                shared += min(1.0 / np.sqrt(nearest), 10.0)
            for a in range(n_agents):
                touching = 0
                for b in range(n_agents):
                    if b != a:
                        dx, dy = pos[e, a, 0] - pos[e, b, 0], pos[e, a, 1] - pos[e, b, 1]
                        touching += np.sqrt(dx * dx + dy * dy) < 2.0 * SIZE
                rewards[e, a] = shared - 5.0 * touching

    return observe, reward


def scenario(env_id: str = "spread", n_agents: int = 3, n_landmarks: int = 3) -> Scenario:
    """Return the task; with more than three agents the arena is twice as wide, as in the published code."""
    half_width = 1.0 if n_agents <= 3 else 2.0
    observe, reward = kernels(n_agents, n_landmarks)
    return Scenario(
        env_id=env_id,
        agent_names=tuple(f"agent_{i}" for i in range(n_agents)),
        has_prey=False,
        sizes=(SIZE,) * n_agents,
        gain=(5.0,) * n_agents,
        max_speed=(float("inf"),) * n_agents,
        landmark_sizes=(0.05,) * n_landmarks,
        landmark_collides=(False,) * n_landmarks,
        agent_range=half_width,
        landmark_range=half_width,
        obs_dim=4 + 2 * n_landmarks + 4 * (n_agents - 1),
        prey_obs_dim=0,
        reward_kind="individual",
        version="omar-1",
        observe=observe,
        reward=reward,
    )
