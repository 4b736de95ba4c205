"""Batched 2-D particle physics of the published offline datasets (OMAR's variant of MPE), compiled.

One kernel serves every particle task; a task is a ``Scenario``: constants, an observation and a reward
kernel. The variant differs from MPE2 in three ways that change every number: velocity is damped, then
pushed, then capped, and only then moves the particle; the action is multiplied by the acceleration twice;
and the action is a force in [-1, 1]^2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dom2_policies.frozen import Act
from dom2data.spec import Bool, EnvSpec, Float32, Step

Float64 = NDArray[np.float64]

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
PHYSICS = {
    "dt": DT,
    "damping": DAMPING,
    "contact_force": CONTACT_FORCE,
    "contact_margin": CONTACT_MARGIN,
    "mass": 1.0,
    "integration": "damp-push-cap-move",
}


@dataclass(frozen=True)
class Scenario:
    """One particle task. P agents (the prey, if any, last), L landmarks; lengths in arena units.

    ``gain`` is the force per unit of action; ``max_speed`` is infinite where speed is not capped.
    ``observe(pos, vel, landmarks, obs, prey_obs)`` and ``reward(pos, landmarks, rewards, prey_rewards)``
    are compiled kernels that fill their last two arguments for all E rows.
    """

    env_id: str
    agent_names: tuple[str, ...]
    has_prey: bool
    sizes: tuple[float, ...]
    gain: tuple[float, ...]
    max_speed: tuple[float, ...]
    landmark_sizes: tuple[float, ...]
    landmark_collides: tuple[bool, ...]
    agent_range: float
    landmark_range: float
    obs_dim: int
    prey_obs_dim: int
    reward_kind: str
    version: str
    observe: Callable[..., None]
    reward: Callable[..., None]
    horizon: int = 25

    def spec(self, prey_id: str) -> EnvSpec:
        """The task as learning agents see it; ``prey_id`` names the prey's weights in the fingerprint."""
        described = {k: v for k, v in vars(self).items() if k not in ("env_id", "observe", "reward")}
        # JSON has no infinity: a speed without a cap is null.
        described["max_speed"] = tuple(v if math.isfinite(v) else None for v in self.max_speed)
        return EnvSpec(
            env_id=self.env_id,
            agent_names=self.agent_names,
            obs_dims=(self.obs_dim,) * len(self.agent_names),
            act_dim=2,
            act_low=-1.0,
            act_high=1.0,
            horizon=self.horizon,
            reward="shared" if self.reward_kind == "shared" else "individual",
            facts=json.loads(json.dumps(PHYSICS | described | {"prey": prey_id})),
        )


@njit(cache=True, nogil=True, error_model="numpy")
def advance(
    pos: Float64,
    vel: Float64,
    landmarks: Float64,
    actions: Float32,
    prey_actions: Float32,
    gain: Float64,
    max_speed: Float64,
    sizes: Float64,
    landmark_sizes: Float64,
) -> None:
    """One step of all rows, in place. pos, vel [E,P,2]; landmarks [E,C,2], the C colliding ones.

    Two bodies closer than the sum of their sizes repel with a force of
    100 k log(1 + exp((d_min - d) / k)), k = 1e-3, along the line between them.
    """
    n_learn, n_agents, n_landmarks = actions.shape[1], pos.shape[1], landmark_sizes.shape[0]
    force = np.empty((n_agents, 2))
    for e in range(pos.shape[0]):
        for a in range(n_learn):
            force[a, 0] = actions[e, a, 0] * gain[e, a]
            force[a, 1] = actions[e, a, 1] * gain[e, a]
        for a in range(n_learn, n_agents):
            force[a, 0] = prey_actions[e, a - n_learn, 0] * gain[e, a]
            force[a, 1] = prey_actions[e, a - n_learn, 1] * gain[e, a]
        for a in range(n_agents):
            for b in range(a + 1, n_agents):
                dx, dy = pos[e, a, 0] - pos[e, b, 0], pos[e, a, 1] - pos[e, b, 1]
                push = contact(dx * dx + dy * dy, sizes[a] + sizes[b])
                if push > 0.0:
                    force[a, 0] += push * dx
                    force[a, 1] += push * dy
                    force[b, 0] -= push * dx
                    force[b, 1] -= push * dy
            for b in range(n_landmarks):
                dx, dy = pos[e, a, 0] - landmarks[e, b, 0], pos[e, a, 1] - landmarks[e, b, 1]
                push = contact(dx * dx + dy * dy, sizes[a] + landmark_sizes[b])
                if push > 0.0:
                    force[a, 0] += push * dx
                    force[a, 1] += push * dy
        for a in range(n_agents):
            vx = vel[e, a, 0] * (1.0 - DAMPING) + force[a, 0] * DT
            vy = vel[e, a, 1] * (1.0 - DAMPING) + force[a, 1] * DT
            speed = np.sqrt(vx * vx + vy * vy)
            if speed > max_speed[e, a]:
                vx, vy = vx / speed * max_speed[e, a], vy / speed * max_speed[e, a]
            vel[e, a, 0], vel[e, a, 1] = vx, vy
            pos[e, a, 0] += vx * DT
            pos[e, a, 1] += vy * DT


@njit(inline="always", error_model="numpy")
def contact(squared_distance: float, reach: float) -> float:
    """Repulsion divided by distance; 0 beyond 50 contact margins, where it is below 1e-22."""
    far = reach + 50.0 * CONTACT_MARGIN
    if squared_distance >= far * far:
        return 0.0
    distance = np.sqrt(squared_distance)
    return CONTACT_FORCE * CONTACT_MARGIN * softplus((reach - distance) / CONTACT_MARGIN) / distance


@njit(inline="always", error_model="numpy")
def softplus(x: float) -> float:
    """log(1 + exp(x)); far from 0 its terms are too small to round to anything but the larger one."""
    if x > 34.0:
        return x
    if x > 0.0:
        return x + np.log1p(np.exp(-x))
    return np.log1p(np.exp(x)) if x > -38.0 else np.exp(x)


@njit(inline="always")
def look_around(pos: Float64, vel: Float64, landmarks: Float64, e: int, a: int, row: Float32) -> int:
    """Begin agent a's observation: its velocity and position, then landmarks and other agents relative to it.

    Returns the index after the last entry filled.
    """
    x, y = pos[e, a, 0], pos[e, a, 1]
    row[0], row[1], row[2], row[3] = vel[e, a, 0], vel[e, a, 1], x, y
    k = 4
    for b in range(landmarks.shape[1]):
        row[k], row[k + 1] = landmarks[e, b, 0] - x, landmarks[e, b, 1] - y
        k += 2
    for b in range(a):
        row[k], row[k + 1] = pos[e, b, 0] - x, pos[e, b, 1] - y
        k += 2
    for b in range(a + 1, pos.shape[1]):
        row[k], row[k + 1] = pos[e, b, 0] - x, pos[e, b, 1] - y
        k += 2
    return k


class ParticleEnv:
    """E rows of one scenario (``dom2data.spec.VectorEnv``).

    ``prey`` acts whenever ``step`` is given no prey actions.
    """

    def __init__(self, scenario: Scenario, num_envs: int, seed: Any, prey: Act | None, prey_id: str):
        self.scenario, self.num_envs, self.prey = scenario, num_envs, prey
        self.spec = scenario.spec(prey_id)
        n_agents, n_learn = len(scenario.sizes), len(scenario.agent_names)
        self._agent_pos = np.zeros((num_envs, n_agents, 2))
        self._agent_vel = np.zeros((num_envs, n_agents, 2))
        self.landmark_pos = np.zeros((num_envs, len(scenario.landmark_sizes), 2))
        self._time = np.zeros(num_envs, np.int64)
        self._sizes = np.array(scenario.sizes)
        # Per row, like the landmarks, so that a shifted environment can change them in single episodes.
        self.gain = np.tile(np.array(scenario.gain), (num_envs, 1))
        self.max_speed = np.tile(np.array(scenario.max_speed), (num_envs, 1))
        # Colliding landmarks come first in every scenario, so the kernel needs no mask.
        self._colliding_sizes = np.array(
            [s for s, c in zip(scenario.landmark_sizes, scenario.landmark_collides, strict=True) if c]
        )
        self._n_prey = n_agents - n_learn
        self.prey_obs = np.zeros((num_envs, self._n_prey, scenario.prey_obs_dim), np.float32)
        self.prey_rewards = np.zeros((num_envs, self._n_prey), np.float32)
        self._rng = np.random.default_rng(seed)
        self.reset()

    @property
    def state(self) -> tuple[Float64, Float64, Float64]:
        """Copies of agent positions [E,P,2], velocities [E,P,2] and landmark positions [E,L,2]."""
        return self._agent_pos.copy(), self._agent_vel.copy(), self.landmark_pos.copy()

    def load_state(self, agent_pos: Float64, agent_vel: Float64, landmark_pos: Float64) -> Float32:
        """Start new episodes from given positions and velocities; returns obs [E,N,O]."""
        self._agent_pos[...], self._agent_vel[...], self.landmark_pos[...] = (
            agent_pos,
            agent_vel,
            landmark_pos,
        )
        self._time[...] = 0
        return self.observe()

    def reset(self, seed: Any = None, mask: Bool | None = None) -> Float32:
        """New episodes in the rows of ``mask`` [E] (all by default); returns obs [E,N,O]."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        rows = np.flatnonzero(np.ones(self.num_envs, bool) if mask is None else mask)
        scenario = self.scenario
        draw = self._rng.uniform
        self._agent_pos[rows] = draw(
            -scenario.agent_range, scenario.agent_range, (len(rows), *self._agent_pos.shape[1:])
        )
        self._agent_vel[rows] = 0.0
        self.landmark_pos[rows] = draw(
            -scenario.landmark_range, scenario.landmark_range, (len(rows), *self.landmark_pos.shape[1:])
        )
        self._time[rows] = 0
        return self.observe()

    def observe(self) -> Float32:
        """Observations of the learning agents [E,N,O]; also refreshes ``prey_obs`` [E,1,O']."""
        obs = np.empty((self.num_envs, self.spec.n_agents, self.spec.obs_dim), np.float32)
        self.scenario.observe(self._agent_pos, self._agent_vel, self.landmark_pos, obs, self.prey_obs)
        return obs

    def step(self, actions: Float32, prey_actions: Float32 | None = None) -> Step:
        """Advance by actions [E,N,2] in [-1,1] (not clipped here) and prey actions [E,1,2], if given."""
        if prey_actions is None:
            prey_actions = self._act_prey()
        colliding = len(self._colliding_sizes)
        advance(
            self._agent_pos,
            self._agent_vel,
            self.landmark_pos[:, :colliding],
            np.asarray(actions),
            np.asarray(prey_actions),
            self.gain,
            self.max_speed,
            self._sizes,
            self._colliding_sizes,
        )
        self._time += 1
        rewards = np.empty((self.num_envs, self.spec.n_agents), np.float32)
        self.scenario.reward(self._agent_pos, self.landmark_pos, rewards, self.prey_rewards)
        return Step(
            self.observe(), rewards, np.zeros(self.num_envs, bool), self._time >= self.scenario.horizon
        )

    def _act_prey(self) -> Float32:
        if self._n_prey == 0:
            return np.zeros((self.num_envs, 0, 2), np.float32)
        if self.prey is None:
            raise ValueError(
                f"{self.spec.env_id}: this environment was made without a prey; pass prey_actions to step"
            )
        return self.prey(self.prey_obs)
