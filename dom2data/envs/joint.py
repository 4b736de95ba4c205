"""The Gymnasium view of an environment: one row, dictionaries by agent name, the team's reward.

Minari recovers it from a dataset (``recover_environment``), which needs an entry point that can be imported
and a name that JSON can hold: ``gymnasium_spec`` gives both.
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
    """A vector of each agent's own size; the dictionary is in alphabetical order, as everywhere in Minari."""
    sizes = zip(spec.agent_names, spec.obs_dims, strict=True)
    return spaces.Dict({agent: spaces.Box(-np.inf, np.inf, (size,), np.float32) for agent, size in sizes})


def action_space(spec: EnvSpec) -> spaces.Dict[Any]:
    """A bounded vector for each agent."""
    bounds = (spec.act_low, spec.act_high, (spec.act_dim,), np.float32)
    return spaces.Dict({agent: spaces.Box(*bounds) for agent in spec.agent_names})


def gymnasium_spec(name: str) -> GymnasiumSpec:
    """What ``gymnasium.make`` needs to build ``JointEnv(name)``; no time limit is added to its own."""
    short = re.sub(r"\W+", "-", name).strip("-")
    return GymnasiumSpec(
        id=f"dom2/{short}-v0", entry_point="dom2data.envs.joint:JointEnv", kwargs={"name": name}
    )


class JointEnv(gymnasium.Env[Any, Any]):
    """``gymnasium.Env`` over one row of ``dom2data.envs.make(name)``.

    The reward is the team's (the first agent's where it is shared, else the mean); ``info["rewards"]`` [N]
    holds each agent's, in the order of ``spec.agent_names`` of the environment.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's name and kind)

    def __init__(self, name: str, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"expected a render_mode (None or rgb_array), found {render_mode!r}")
        named.environment(name)  # Minari takes the name from the data
        self.name, self.render_mode = name, render_mode
        self._env: VectorEnv = envs.make(name, seed=None)
        self._row = 0
        self.team_spec = self._env.spec
        self.observation_space = observation_space(self.team_spec)
        self.action_space = action_space(self.team_spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ByAgent, dict[str, Any]]:
        """A new episode; without a ``seed`` it follows from the last one given, or else from nothing known.

        Stored episodes were begun many at a time from one seed. ``options`` say which of them this is:
        ``spawn_key`` of the SeedSequence, ``rows`` begun together, and the ``row``. With the ``seed`` and the
        ``options`` stored with an episode, and its actions, that episode comes out again.
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
        """Gymnasium's five values. Raises KeyError when an agent's action is missing."""
        spec = self.team_spec
        joint = np.zeros((self._env.num_envs, spec.n_agents, spec.act_dim), np.float32)
        joint[self._row] = np.stack([action[agent] for agent in spec.agent_names])
        step = self._env.step(joint)
        rewards = step.rewards[self._row]
        ended = bool(step.terminated[self._row]), bool(step.truncated[self._row])
        return self._by_agent(step.obs), float(spec.team(rewards)), *ended, {"rewards": rewards}

    def render(self) -> NDArray[np.uint8] | None:
        """The present state as uint8 [height, width, 3]; None without a render mode."""
        from dom2data.envs.render import draw

        return draw(self._env, self._row) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close a user's own environment; ours hold nothing open."""
        envs.close(self._env)

    def _by_agent(self, obs: NDArray[np.float32]) -> ByAgent:
        spec = self.team_spec
        rows = zip(spec.agent_names, obs[self._row], spec.obs_dims, strict=True)
        return {agent: row[:size].copy() for agent, row, size in rows}
