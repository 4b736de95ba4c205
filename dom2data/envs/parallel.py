"""PettingZoo interface of an environment: one row, dictionaries by agent name."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from dom2data import envs
from dom2data.envs import joint
from dom2data.envs.render import draw

Dict = dict[str, Any]
METADATA: Dict = {"render_modes": ["rgb_array"], "is_parallelizable": True, "render_fps": 10}


class ParallelView(ParallelEnv):
    """``pettingzoo.ParallelEnv`` over one row of ``dom2data.envs.make(name)``.

    Observations are float32 vectors, actions float32 vectors in [-1, 1]^A; the frozen prey is part of the
    environment, not an agent. Episodes end for all agents at once; in built-in ones by truncation only.
    ``render_mode="rgb_array"`` makes ``render()`` return uint8 [400, 400, 3].
    """

    metadata: Dict = METADATA

    def __init__(self, name: str, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"expected a render_mode (None or rgb_array), found {render_mode!r}")
        self.render_mode = render_mode
        self._env = envs.make(name, num_envs=1, seed=None)
        spec = self._env.spec
        self.metadata = METADATA | {"name": f"dom2_{name}"}
        self.possible_agents = list(spec.agent_names)
        self.agents: list[str] = []
        self.observation_spaces: Dict = dict(joint.observation_space(spec))
        self.action_spaces: Dict = dict(joint.action_space(spec))

    def observation_space(self, agent: str) -> Box:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Dict | None = None) -> tuple[Dict, Dict]:
        """Start an episode; return observations and empty infos. ``options`` are ignored.

        Without a ``seed``, continue the random stream of the last seed, if any.
        """
        self.agents = list(self.possible_agents)
        return self._by_agent(self._env.reset(seed)[0]), {agent: {} for agent in self.agents}

    def step(self, actions: Dict) -> tuple[Dict, Dict, Dict, Dict, Dict]:
        """Return PettingZoo's five dictionaries.

        Raises KeyError when an agent's action is missing, ValueError outside an episode.
        """
        if not self.agents:
            raise ValueError("expected an episode to go on with, found none; reset() begins one")
        taken = np.stack([np.asarray(actions[agent], np.float32) for agent in self.possible_agents])
        step = self._env.step(taken[None])
        agents, terminated, truncated = self.agents, bool(step.terminated[0]), bool(step.truncated[0])
        rewards = {agent: float(r) for agent, r in zip(agents, step.rewards[0], strict=True)}
        if terminated or truncated:
            self.agents = []
        return (
            self._by_agent(step.obs[0], agents),
            rewards,
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            {agent: {} for agent in agents},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current state as uint8 [400, 400, 3]; None without a render mode."""
        return draw(self._env, 0) if self.render_mode == "rgb_array" else None

    def state(self) -> NDArray[np.float32]:
        """Return all agents' observations as one vector."""
        return self._env.observe()[0].reshape(-1)

    def close(self) -> None:
        """Close a user's own environment; built-in ones need no closing."""
        envs.close(self._env)

    def _by_agent(self, obs: NDArray[np.float32], agents: list[str] | None = None) -> Dict:
        return {
            a: o[:len_]
            for a, o, len_ in zip(agents or self.agents, obs, self._env.spec.obs_dims, strict=True)
        }
