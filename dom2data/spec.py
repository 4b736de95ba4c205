"""The words everything else is written in.

Letters in shape comments: E parallel environments, T steps, N agents that learn, O observation size,
A action size, S seeds, M stacked members (seeds x agents), B minibatch, H steps of a window, K candidate
actions. Formulas keep their paper's letters.
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
"""Called with what is going on, how much of it is done, and how much there is in all."""


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class EnvSpec:
    """What an agent, a store and a checkpoint need to know of an environment.

    ``facts`` are JSON values that name everything that changes what the numbers mean (physics constants,
    reward and observation version, prey weights, simulator version). ``fingerprint`` hashes them: two
    datasets are comparable iff it is equal.
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
        """N, the number of agents that learn."""
        return len(self.agent_names)

    @property
    def obs_dim(self) -> int:
        """O, the width of the observation array (the widest agent's)."""
        return max(self.obs_dims)

    def team(self, agents: NDArray[Any]) -> NDArray[Any]:
        """The team's return [...] of the agents' [..., N]: the first one's where shared, else their mean."""
        return agents[..., 0] if self.reward == "shared" else agents.mean(axis=-1)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; ``from_json`` is its inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EnvSpec:
        """Raises TypeError on an unknown or a missing key."""
        return cls(
            **value | {"agent_names": tuple(value["agent_names"]), "obs_dims": tuple(value["obs_dims"])}
        )


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Facts that differ, as (name, one's value, the other's) in their order; None is no such fact."""
    names = dict.fromkeys((*one, *other))
    return [(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


class Step(NamedTuple):
    """What ``VectorEnv.step`` returns: the true next observation, never one of a new episode."""

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
        """New episodes in the rows where ``mask`` [E] is true (all, by default); returns obs [E, N, O]."""
        ...

    def step(self, actions: Float32) -> Step:
        """Advance all rows by actions [E, N, A]; the array is not modified."""
        ...


@dataclass(frozen=True)
class Episode:
    """One trajectory. Observations have one row more than actions: the last is the final observation."""

    observations: Float32  # [T+1, N, O]
    actions: Float32  # [T, N, A]
    rewards: Float32  # [T, N]
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Batch:
    """A minibatch per member; every field leads with the member axis."""

    obs: torch.Tensor  # [M, B, O]
    actions: torch.Tensor  # [M, B, A]
    rewards: torch.Tensor  # [M, B]
    next_obs: torch.Tensor  # [M, B, O]
    terminated: torch.Tensor  # [M, B] float, 1 where bootstrapping must stop (never at a time limit)
