"""Batched particle environments: a task is a ``Scenario``, made of constants and two compiled kernels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dom2_policies.frozen import Act
from dom2data.envs.physics import PHYSICS, Float64, advancer
from dom2data.spec import Bool, EnvSpec, Float32, Step


@dataclass(frozen=True)
class Scenario:
    """One particle task. P agents (the prey, if any, last), L landmarks; lengths in arena units.

    ``gain`` is the force per unit of action; ``max_speed`` is infinite if speed is not capped.
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
        """Return the spec for the learning agents; ``prey_id`` identifies the prey's weights."""
        described = {k: v for k, v in vars(self).items() if k not in ("env_id", "observe", "reward")}
        # JSON has no infinity: a speed that is not capped is null.
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


class ParticleEnv:
    """E rows of one scenario (``dom2data.spec.VectorEnv``).

    ``prey`` acts if ``step`` is given no prey actions.
    """

    def __init__(self, scenario: Scenario, num_envs: int, seed: Any, prey: Act | None, prey_id: str):
        self.scenario, self.num_envs, self.prey = scenario, num_envs, prey
        self.spec = scenario.spec(prey_id)
        n_agents, n_learn = len(scenario.sizes), len(scenario.agent_names)
        self._agent_pos = np.zeros((num_envs, n_agents, 2))
        self._agent_vel = np.zeros((num_envs, n_agents, 2))
        self.landmark_pos = np.zeros((num_envs, len(scenario.landmark_sizes), 2))
        self._time = np.zeros(num_envs, np.int64)
        # In every scenario, colliding landmarks come first, so the kernel needs no mask.
        colliding = [s for s, c in zip(scenario.landmark_sizes, scenario.landmark_collides, strict=True) if c]
        self._sizes = np.array([*scenario.sizes, *colliding])
        # Per row, like the landmarks, so that shifts can change them for single episodes.
        self.gain = np.tile(np.array(scenario.gain), (num_envs, 1))
        self.max_speed = np.tile(np.array(scenario.max_speed), (num_envs, 1))
        self._n_prey = n_agents - n_learn
        self._advance = advancer(n_learn, self._n_prey, len(colliding))
        self.prey_obs = np.zeros((num_envs, self._n_prey, scenario.prey_obs_dim), np.float32)
        self.prey_rewards = np.zeros((num_envs, self._n_prey), np.float32)
        self._rng = np.random.default_rng(seed)
        self.reset()

    @property
    def state(self) -> tuple[Float64, Float64, Float64]:
        """Copies of agent positions [E,P,2], velocities [E,P,2] and landmark positions [E,L,2]."""
        return self._agent_pos.copy(), self._agent_vel.copy(), self.landmark_pos.copy()

    def load_state(self, agent_pos: Float64, agent_vel: Float64, landmark_pos: Float64) -> Float32:
        """Start new episodes from given positions and velocities; return obs [E,N,O]."""
        self._agent_pos[...], self._agent_vel[...], self.landmark_pos[...] = (
            agent_pos,
            agent_vel,
            landmark_pos,
        )
        self._time[...] = 0
        return self.observe()

    def reset(self, seed: Any = None, mask: Bool | None = None) -> Float32:
        """Start new episodes in the rows of ``mask`` [E] (default: all); return obs [E,N,O]."""
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
        """Return the learning agents' observations [E,N,O]; also update ``prey_obs`` [E,1,O']."""
        obs = np.empty((self.num_envs, self.spec.n_agents, self.spec.obs_dim), np.float32)
        self.scenario.observe(self._agent_pos, self._agent_vel, self.landmark_pos, obs, self.prey_obs)
        return obs

    def step(self, actions: Float32, prey_actions: Float32 | None = None) -> Step:
        """Advance by actions [E,N,2] in [-1,1] (not clipped here) and prey actions [E,1,2], if given."""
        if prey_actions is None:
            prey_actions = self._act_prey()
        self._advance(
            self._agent_pos,
            self._agent_vel,
            self.landmark_pos,
            np.asarray(actions),
            np.asarray(prey_actions),
            self.gain,
            self.max_speed,
            self._sizes,
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
