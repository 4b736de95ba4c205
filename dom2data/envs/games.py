"""Two coordination games with known optima: two equally good joint solutions, and a bad one between them.

Fully decentralised learners cannot solve them from data with both solutions ("ways") unless something breaks
the tie (Matsunaga et al. 2023, AlberDICE, on matrix games). Both have two agents with one action in [-1, 1]:

- ``xor``, one step: a smooth version of the matrix game that pays if the signs differ. The payoff is 1 at
  (0.6, -0.6) and (-0.6, 0.6), minus the squared distance to the nearer one over 0.5^2, but at least 0. The
  best return is 1. The average of the ways pays 0; agents that flip coins are paid in half of the episodes.
- ``meeting``, four steps on a line: each agent moves by half of its action, and every step pays 1 at places
  (1, 1) and (-1, -1), less elsewhere, as in ``xor``. Reaching them takes two steps, so the best return is 3.
  Agents see each other, so they can still agree after the first step.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from dom2data.dataset import Dataset, from_arrays
from dom2data.spec import Bool, EnvSpec, Float32, Step

GAMES = ("xor", "meeting")
Kind = Literal["both", "uniform"]
"""Kind of data: ``both`` ways, half of the episodes each in expectation, with Gaussian noise of standard
deviation 0.1 on actions before clipping (in ``meeting``, agents move at full speed); or uniform actions."""

OPTIMUM = {"xor": 1.0, "meeting": 3.0}
"""The largest return."""

_HORIZON = {"xor": 1, "meeting": 4}
_WAYS = {"xor": ((0.6, -0.6), (-0.6, 0.6)), "meeting": ((1.0, 1.0), (-1.0, -1.0))}
_WIDTH, _NOISE = 0.5, 0.1


@functools.cache
def spec(name: str) -> EnvSpec:
    """Return the spec of a game. Raises ValueError for an unknown one."""
    if name not in GAMES:
        raise ValueError(f"expected a game ({', '.join(GAMES)}), found {name!r}")
    facts = {"version": f"{name}-1", "width": _WIDTH, "ways": [list(way) for way in _WAYS[name]]}
    return EnvSpec(name, ("first", "second"), (3, 3), 1, -1.0, 1.0, _HORIZON[name], "shared", facts)


class Game:
    """E rows of a game. An agent observes its own place, the other's, and the fraction of the steps taken.

    Places start at 0. In ``xor`` they are the last actions, so that the final observation shows them.
    """

    def __init__(self, name: str, num_envs: int):
        self._spec, self._num_envs = spec(name), num_envs
        self.places, self.time = np.zeros((num_envs, 2), np.float32), 0

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @property
    def num_envs(self) -> int:
        return self._num_envs

    def reset(self, seed: int | np.random.SeedSequence | None = None, mask: Bool | None = None) -> Float32:
        """Reset all rows, since all episodes have the same length; the initial state is always the same."""
        self.places, self.time = np.zeros((self._num_envs, 2), np.float32), 0
        return self.observe()

    def step(self, actions: Float32) -> Step:
        """Advance by actions [E, 2, 1]; the last step terminates."""
        moves = np.clip(actions[..., 0], -1.0, 1.0)
        if self.spec.env_id == "xor":
            self.places = moves.astype(np.float32)
        else:
            self.places = np.clip(self.places + 0.5 * moves, -1.0, 1.0).astype(np.float32)
        self.time += 1
        paid = payoff(self.spec.env_id, self.places)
        ended = np.full(self._num_envs, self.time == self.spec.horizon)
        rewards = np.repeat(paid[:, None], 2, axis=1)
        return Step(self.observe(), rewards, ended, np.zeros(self._num_envs, bool))

    def observe(self) -> Float32:
        """Return observations [E, 2, 3]."""
        time = np.full((self._num_envs, 1), self.time / self.spec.horizon, np.float32)
        views = [np.concatenate([self.places[:, order], time], axis=1) for order in ([0, 1], [1, 0])]
        return np.stack(views, axis=1)


def payoff(name: str, places: Float32) -> Float32:
    """Return the maximum over ways of 1 - |places - way|^2 / 0.5^2, at least 0: places [E, 2] -> [E]."""
    distances = np.square(places[:, None] - np.array(_WAYS[name], np.float32)).sum(axis=-1)
    return np.maximum(1.0 - distances.min(axis=1) / _WIDTH**2, 0.0).astype(np.float32)


def data(name: str, kind: Kind, episodes: int = 4000, seed: int = 0) -> Dataset:
    """Return a dataset in memory; with ``both``, an episode follows one way from start to end."""
    env, rng = Game(name, episodes), np.random.default_rng(seed)
    ways = np.array(_WAYS[name])[rng.integers(2, size=episodes)]
    observations, actions, rewards = [env.reset()], [], []
    for _ in range(env.spec.horizon):
        if kind == "uniform":
            chosen = rng.uniform(-1.0, 1.0, ways.shape)
        else:  # towards the way's place; when there, stay
            aim = ways if name == "xor" else 2.0 * (ways - env.places)
            chosen = np.clip(aim + _NOISE * rng.standard_normal(ways.shape), -1.0, 1.0)
        actions.append(chosen[..., None].astype(np.float32))
        step = env.step(actions[-1])
        observations.append(step.obs)
        rewards.append(step.rewards)
    return from_arrays(
        env.spec,
        np.stack(observations, axis=1).reshape(-1, 2, 3),
        np.stack(actions, axis=1).reshape(-1, 2, 1),
        np.stack(rewards, axis=1).reshape(-1, 2),
        np.arange(episodes + 1) * env.spec.horizon,
        terminated=np.ones(episodes, bool),
        quality=kind,
        dataset_id=f"games/{name}-{kind}-v0",
    )
