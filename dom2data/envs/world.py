"""World as in the published offline datasets: tag with one obstacle, two foods and two forests."""

from __future__ import annotations

import numpy as np
from numba import njit

from dom2_policies.compiled import compiled
from dom2data.envs.particle import Scenario
from dom2data.envs.physics import Float64, look_around
from dom2data.envs.tag import bound
from dom2data.spec import Float32

PREDATORS, LANDMARKS = 3, 5  # constants, so that the compiler unrolls the loops over them
PREDATOR_SIZE, PREY_SIZE, FOOD_SIZE, FOREST_SIZE = 0.075, 0.045, 0.03, 0.3
FOODS, FORESTS = (1, 2), (3, 4)  # landmark 0 is the obstacle


@njit(inline="always")
def distance(pos: Float64, e: int, a: int, other: Float64, b: int) -> float:
    dx, dy = pos[e, a, 0] - other[e, b, 0], pos[e, a, 1] - other[e, b, 1]
    return np.sqrt(dx * dx + dy * dy)


@compiled(nogil=True)
def observe(pos: Float64, vel: Float64, landmarks: Float64, obs: Float32, prey_obs: Float32) -> None:
    """Predator (24): velocity, position, landmarks, other agents, prey's velocity, forests. Prey: 22.

    Landmarks and agents are relative to the observer; a forest's entry is 1 inside it and -1 outside. The
    prey sees only its own velocity. Forests hide nobody: in the published code, agents see through them.
    """
    prey = PREDATORS
    for e in range(pos.shape[0]):
        for a in range(PREDATORS + 1):
            row = obs[e, a] if a < prey else prey_obs[e, 0]
            k = look_around(pos, vel, landmarks, e, a, PREDATORS + 1, LANDMARKS, row)
            if a < prey:
                row[k], row[k + 1] = vel[e, prey, 0], vel[e, prey, 1]
                k += 2
            size = PREDATOR_SIZE if a < prey else PREY_SIZE
            for forest in FORESTS:
                inside = distance(pos, e, a, landmarks, forest) < size + FOREST_SIZE
                row[k] = 1.0 if inside else -1.0
                k += 1


@compiled(nogil=True, error_model="numpy")
def reward(pos: Float64, landmarks: Float64, rewards: Float32, prey_rewards: Float32) -> None:
    """Predators share 5 per touching predator - 0.1 x the sum of their distances to the prey.

    The prey gets the negative of it, minus twice ``bound`` of each coordinate, plus 2 per touched food and
    0.05 x the distance to the nearest food (with the sign of the published code).
    """
    prey = PREDATORS
    for e in range(pos.shape[0]):
        distances, touching = 0.0, 0
        for a in range(prey):
            d = distance(pos, e, a, pos, prey)
            distances += d
            touching += d < PREDATOR_SIZE + PREY_SIZE
        shared = 5.0 * touching - 0.1 * distances
        for a in range(prey):
            rewards[e, a] = shared
        eaten, nearest = 0, np.inf
        for food in FOODS:
            d = distance(pos, e, prey, landmarks, food)
            eaten += d < PREY_SIZE + FOOD_SIZE
            nearest = min(nearest, d)
        edge = bound(abs(pos[e, prey, 0])) + bound(abs(pos[e, prey, 1]))
        prey_rewards[e, 0] = -shared - 2.0 * edge + 2.0 * eaten + 0.05 * nearest


_SCENARIO = Scenario(
    env_id="world",
    agent_names=("predator_0", "predator_1", "predator_2"),
    has_prey=True,
    sizes=(PREDATOR_SIZE, PREDATOR_SIZE, PREDATOR_SIZE, PREY_SIZE),
    gain=(9.0, 9.0, 9.0, 16.0),
    max_speed=(1.0, 1.0, 1.0, 1.3),
    landmark_sizes=(0.2, FOOD_SIZE, FOOD_SIZE, FOREST_SIZE, FOREST_SIZE),
    landmark_collides=(True, False, False, False, False),
    agent_range=1.0,
    landmark_range=0.9,
    obs_dim=24,
    prey_obs_dim=22,
    reward_kind="shared",
    version="omar-1",
    observe=observe,
    reward=reward,
)


def scenario() -> Scenario:
    """Return the task."""
    return _SCENARIO
