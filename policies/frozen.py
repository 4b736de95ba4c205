"""Policies that act on NumPy arrays: those that make data, and the frozen prey.

They do without PyTorch, whose import takes as long as half a million steps. ``dom2_policies.policy`` has the
same policies as modules, for learning; both act bit for bit alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from dom2_policies import portable
from dom2_policies.products import Float32

Act = Callable[[Float32], Float32]
"""Joint observations [E, N, O] -> joint actions [E, N, A]."""


class Draws:
    """The random numbers of a CPU ``torch.Generator`` with the same seed, without PyTorch.

    Both are the Mersenne Twister MT19937, seeded with the seed's lowest 32 bits.
    """

    def __init__(self, seed: int):
        self._source = np.random.RandomState(seed & 0xFFFFFFFF)

    def _bits(self, shape: Sequence[int]) -> NDArray[np.uint32]:
        return self._source.randint(0, 2**32, tuple(shape), np.uint32)

    def uniform(self, shape: Sequence[int]) -> Float32:
        """Like ``torch.rand``: in [0, 1), multiples of 2^-24."""
        return (self._bits(shape) & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)

    def seed(self) -> int:
        """Like ``torch.randint(2**63 - 1, ())``."""
        high, low = self._bits((2,)).tolist()
        return int((high << 32 | low) % (2**63 - 1))


class Uniform:
    """Uniform actions in [low, high], independent of the observation."""

    def __init__(self, act_dim: int, low: float, high: float, draws: Draws):
        self.act_dim, self.low, self.high, self.draws = act_dim, low, high, draws

    def __call__(self, obs: Float32) -> Float32:
        drawn = self.draws.uniform((*obs.shape[:-1], self.act_dim))
        return drawn * np.float32(self.high - self.low) + np.float32(self.low)


class Frozen:
    """N tanh MLPs, one for each agent; given ``draws``, with noise of standard deviation ``noise``."""

    def __init__(self, layers: portable.Layers, noise: float = 0.0, draws: Draws | None = None):
        self.layers, self.noise, self.draws = layers, noise, draws

    def __call__(self, obs: Float32) -> Float32:
        actions = means(self.layers, obs)
        if self.noise and self.draws is not None:
            return noisy(actions, self.noise, self.draws.seed())
        return actions


def means(layers: portable.Layers, obs: Float32) -> Float32:
    """The networks' actions for obs [..., N, O]; an observation wider than their input is cut."""
    n_agents, wide = layers[0][0].shape[:2]
    flat = obs[..., :wide].reshape(-1, n_agents, wide).swapaxes(0, 1)
    actions = portable.tanh(portable.forward(layers, flat)[-1]).swapaxes(0, 1)
    return actions.reshape(*obs.shape[:-1], actions.shape[-1])


def noisy(actions: Float32, noise: float, seed: int) -> Float32:
    """Actions with Gaussian noise from ``seed``, clipped to [-1, 1]."""
    return (actions + np.float32(noise) * portable.normal(seed, actions.shape)).clip(-1.0, 1.0)


def load(path: Path, noise: float = 0.0, draws: Draws | None = None) -> Frozen:
    """Read what ``policy.save_actor`` wrote. Raises ValueError if the file is something else."""
    with safe_open(path, "np") as file:
        layers = len(header(file.metadata(), path).sizes) - 1
        names = [(f"mlp.layers.{k}.weight", f"mlp.layers.{k}.bias") for k in range(layers)]
        return Frozen([(file.get_tensor(w), file.get_tensor(b)) for w, b in names], noise, draws)


class Header(NamedTuple):
    """What an actor's file says about its networks."""

    sizes: tuple[int, ...]
    """in, hidden..., out"""
    n_agents: int


def header(metadata: dict[str, str] | None, path: Path) -> Header:
    """Read the header of an actor's file. Raises ValueError if it has none."""
    found = (metadata or {}).get("actor")
    if found is None:
        raise ValueError(f"{path}: expected an actor's safetensors file, found one without its header")
    said = json.loads(found)
    return Header(tuple(said["sizes"]), said["n_agents"])
