"""Tag (predator-prey) as in the published offline datasets: three learning predators and a frozen prey."""

from __future__ import annotations

import numpy as np
from numba import njit

from dom2_policies.compiled import compiled
from dom2data.envs.particle import Scenario
from dom2data.envs.physics import Float64, look_around
from dom2data.spec import Float32

PREDATORS, LANDMARKS = 3, 2  # constants, so that the compiler unrolls the loops over them
PREDATOR_SIZE, PREY_SIZE = 0.075, 0.05


@compiled(nogil=True)
def observe(pos: Float64, vel: Float64, landmarks: Float64, obs: Float32, prey_obs: Float32) -> None:
    """Predator (16): velocity, position, landmarks, other predators, prey, prey's velocity. Prey: 14.

    Everything except velocities and the observer's own position is relative to the observer.
    """
    for e in range(pos.shape[0]):
        for a in range(PREDATORS + 1):
            row = obs[e, a] if a < PREDATORS else prey_obs[e, 0]
            k = look_around(pos, vel, landmarks, e, a, PREDATORS + 1, LANDMARKS, row)
            if a < PREDATORS:
                row[k], row[k + 1] = vel[e, PREDATORS, 0], vel[e, PREDATORS, 1]


@njit(inline="always")
def bound(x: float) -> float:
    """Return the prey's penalty for a coordinate near or beyond the edge of the arena."""
    if x < 0.9:
        return 0.0
    return 10.0 * (x - 0.9) if x < 1.0 else min(np.exp(2.0 * x - 2.0), 10.0)


@compiled(nogil=True, error_model="numpy")
def reward(pos: Float64, landmarks: Float64, rewards: Float32, prey_rewards: Float32) -> None:
    """Predators share 10 per touching predator - 0.1 x the sum of their distances to the prey.

    The prey gets the negative of it, minus ``bound`` of each coordinate.
    """
    prey = PREDATORS
    reach = PREDATOR_SIZE + PREY_SIZE
    for e in range(pos.shape[0]):
        distances, touching = 0.0, 0
        for a in range(prey):
            dx, dy = pos[e, a, 0] - pos[e, prey, 0], pos[e, a, 1] - pos[e, prey, 1]
            distance = np.sqrt(dx * dx + dy * dy)
            distances += distance
            touching += distance < reach
        shared = 10.0 * touching - 0.1 * distances
        for a in range(prey):
            rewards[e, a] = shared
        prey_rewards[e, 0] = -shared - bound(abs(pos[e, prey, 0])) - bound(abs(pos[e, prey, 1]))


_SCENARIO = Scenario(
    env_id="tag",
    agent_names=("predator_0", "predator_1", "predator_2"),
    has_prey=True,
    sizes=(PREDATOR_SIZE, PREDATOR_SIZE, PREDATOR_SIZE, PREY_SIZE),
    gain=(9.0, 9.0, 9.0, 16.0),
    max_speed=(1.0, 1.0, 1.0, 1.3),
    landmark_sizes=(0.2, 0.2),
    landmark_collides=(True, True),
    agent_range=1.0,
    landmark_range=0.9,
    obs_dim=16,
    prey_obs_dim=14,
    reward_kind="shared",
    version="omar-1",
    observe=observe,
    reward=reward,
)


def scenario() -> Scenario:
    """Return the task."""
    return _SCENARIO
