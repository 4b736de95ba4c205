"""The basic types and interfaces that the rest of the code uses.

Letters in shape comments: E parallel environments, T steps, N learning agents, O observation size,
A action size, S seeds, M stacked members (seeds x agents), B minibatch size, H steps of a window, K candidate
actions. Formulas keep the letters of their paper.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

Progress = Callable[[str, int, int], None]
"""Progress callback, called with a description of the work, the amount done, and the total amount."""


def quiet(what: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class EnvSpec:
    """What an agent, a store and a checkpoint need to know about an environment.

    ``facts`` are JSON values that cover everything that affects the meaning of the numbers (physics
    constants, reward and observation version, prey weights, simulator version). ``fingerprint`` is their
    hash: two datasets are comparable iff it is equal.
    """

    env_id: str
    agent_names: tuple[str, ...]
    obs_dims: tuple[int, ...]
    act_dim: int
    act_low: float
    act_high: float
    horizon: int
    reward: Literal["shared", "individual"]
    facts: dict[str, Any] = dataclasses.field(hash=False)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def n_agents(self) -> int:
        """N, the number of learning agents."""
        return len(self.agent_names)

    @property
    def obs_dim(self) -> int:
        """O, the width of the observation array (the widest agent's)."""
        return max(self.obs_dims)

    def team(self, agents: NDArray[Any]) -> NDArray[Any]:
        """Reduce the agents' values [..., N] to the team's [...]: the first if shared, else the mean."""
        return agents[..., 0] if self.reward == "shared" else agents.mean(axis=-1)

    def to_json(self) -> dict[str, Any]:
        """Convert to a dict of plain JSON values; ``from_json`` is the inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EnvSpec:
        """Raises TypeError on an unknown or a missing key."""
        return cls(
            **value | {"agent_names": tuple(value["agent_names"]), "obs_dims": tuple(value["obs_dims"])}
        )


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the facts that differ as (name, value in ``one``, value in ``other``); None: no such fact."""
    names = dict.fromkeys((*one, *other))
    return [(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


class Step(NamedTuple):
    """The result of ``VectorEnv.step``: ``obs`` is the true next observation, never a new episode's first."""

    obs: Float32  # [E, N, O]
    rewards: Float32  # [E, N]
    terminated: Bool  # [E]
    truncated: Bool  # [E]


class VectorEnv(Protocol):
    """E environments stepped together, without autoreset."""

    @property
    def spec(self) -> EnvSpec: ...

    @property
    def num_envs(self) -> int: ...

    def reset(self, seed: int | np.random.SeedSequence | None = None, mask: Bool | None = None) -> Float32:
        """Start new episodes in the rows where ``mask`` [E] is true (default: all); return obs [E, N, O]."""
        ...

    def step(self, actions: Float32) -> Step:
        """Advance all rows by actions [E, N, A]; the array is not modified."""
        ...


@dataclass(frozen=True)
class Episode:
    """One trajectory. Observations have one more row than actions; the last is the final observation."""

    observations: Float32  # [T+1, N, O]
    actions: Float32  # [T, N, A]
    rewards: Float32  # [T, N]
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Batch:
    """A minibatch per member; the member axis comes first in every field."""

    obs: torch.Tensor  # [M, B, O]
    actions: torch.Tensor  # [M, B, A]
    rewards: torch.Tensor  # [M, B]
    next_obs: torch.Tensor  # [M, B, O]
    terminated: torch.Tensor  # [M, B] float, 1 where bootstrapping must stop (never at a time limit)
