"""Gymnasium interface of an environment: one row, dictionaries by agent name, the team's reward.

Minari recovers the environment from a dataset (``recover_environment``). This needs an importable entry point
and JSON arguments, which ``gymnasium_spec`` provides.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from numpy.typing import NDArray

from dom2data import envs, named
from dom2data.spec import EnvSpec, VectorEnv

ByAgent = dict[str, NDArray[np.float32]]


def observation_space(spec: EnvSpec) -> spaces.Dict[Any]:
    """Return a Dict with a vector of each agent's own size, in alphabetical order, as always in Minari."""
    sizes = zip(spec.agent_names, spec.obs_dims, strict=True)
    return spaces.Dict({agent: spaces.Box(-np.inf, np.inf, (size,), np.float32) for agent, size in sizes})


def action_space(spec: EnvSpec) -> spaces.Dict[Any]:
    """Return a Dict with a bounded vector per agent."""
    bounds = (spec.act_low, spec.act_high, (spec.act_dim,), np.float32)
    return spaces.Dict({agent: spaces.Box(*bounds) for agent in spec.agent_names})


def gymnasium_spec(name: str) -> GymnasiumSpec:
    """Return what ``gymnasium.make`` needs to build ``JointEnv(name)``, without an additional time limit."""
    short = re.sub(r"\W+", "-", name).strip("-")
    return GymnasiumSpec(
        id=f"dom2/{short}-v0", entry_point="dom2data.envs.joint:JointEnv", kwargs={"name": name}
    )


class JointEnv(gymnasium.Env[Any, Any]):
    """``gymnasium.Env`` over one row of ``dom2data.envs.make(name)``.

    The reward is the team's (the first agent's if it is shared, else the mean); ``info["rewards"]`` [N]
    holds each agent's, in the order of the environment's ``spec.agent_names``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's name and kind)

    def __init__(self, name: str, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"expected a render_mode (None or rgb_array), found {render_mode!r}")
        named.environment(name)  # the name may come from a dataset, through Minari
        self.name, self.render_mode = name, render_mode
        self._env: VectorEnv = envs.make(name, seed=None)
        self._row = 0
        self.team_spec = self._env.spec
        self.observation_space = observation_space(self.team_spec)
        self.action_space = action_space(self.team_spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ByAgent, dict[str, Any]]:
        """Start an episode; without a ``seed``, continue the random stream of the last seed, if any.

        Stored episodes were started in batches from one seed. ``options`` identify the episode in its batch:
        ``spawn_key`` of the SeedSequence, number of ``rows``, and the ``row``. The ``seed`` and ``options``
        stored with an episode, and its actions, reproduce that episode.
        """
        super().reset(seed=seed)
        how = options or {}
        rows, self._row = int(how.get("rows", 1)), int(how.get("row", 0))
        if not 0 <= self._row < rows:
            raise ValueError(f"expected a row in [0, {rows}), found {self._row}")
        if self._env.num_envs != rows:
            envs.close(self._env)
            self._env = envs.make(self.name, num_envs=rows, seed=int(self.np_random.integers(2**63)))
        key = tuple(int(word) for word in how.get("spawn_key", ()))
        started = self._env.reset(None if seed is None else np.random.SeedSequence(seed, spawn_key=key))
        return self._by_agent(started), {"rewards": np.zeros(self.team_spec.n_agents, np.float32)}

    def step(self, action: ByAgent) -> tuple[ByAgent, float, bool, bool, dict[str, Any]]:
        """Return Gymnasium's five values. Raises KeyError when an agent's action is missing."""
        spec = self.team_spec
        joint = np.zeros((self._env.num_envs, spec.n_agents, spec.act_dim), np.float32)
        joint[self._row] = np.stack([action[agent] for agent in spec.agent_names])
        step = self._env.step(joint)
        rewards = step.rewards[self._row]
        ended = bool(step.terminated[self._row]), bool(step.truncated[self._row])
        return self._by_agent(step.obs), float(spec.team(rewards)), *ended, {"rewards": rewards}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current state as uint8 [height, width, 3]; None without a render mode."""
        from dom2data.envs.render import draw

        return draw(self._env, self._row) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close a user's own environment; built-in ones need no closing."""
        envs.close(self._env)

    def _by_agent(self, obs: NDArray[np.float32]) -> ByAgent:
        spec = self.team_spec
        rows = zip(spec.agent_names, obs[self._row], spec.obs_dims, strict=True)
        return {agent: row[:size].copy() for agent, row, size in rows}
