"""Policies, which act but do not learn. Actors on CPUs act bit for bit alike on every CPU (``portable``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dom2_policies import frozen
from dom2_policies.saving import save_weights
from dom2_policies.stacked import StackedMLP


class Policy(Protocol):
    """A map from joint observations to joint actions."""

    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """obs [..., N, O] -> actions [..., N, A]; all randomness comes from ``generator``."""
        ...


class Uniform:
    """Uniform actions in [low, high], independent of the observation (and of ``deterministic``)."""

    def __init__(self, act_dim: int, low: float = -1.0, high: float = 1.0):
        self.act_dim, self.low, self.high = act_dim, low, high

    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        draws = torch.rand(*obs.shape[:-1], self.act_dim, generator=generator, device=obs.device)
        return draws.mul_(self.high - self.low).add_(self.low)


class Actor(nn.Module):
    """N tanh MLPs, one per agent; Gaussian noise of standard deviation ``noise`` unless deterministic."""

    def __init__(
        self, sizes: Sequence[int], n_agents: int, generators: Sequence[torch.Generator], noise: float = 0.0
    ):
        super().__init__()
        self.sizes, self.noise = tuple(sizes), noise
        self.mlp = StackedMLP(n_agents, sizes, generators)

    @property
    def n_agents(self) -> int:
        """The number of networks in the stack, also in a part cut out of a larger stack."""
        return len(next(self.mlp.parameters()))

    def forward(self, obs: Tensor) -> Tensor:
        """obs [N, B, O] -> mean actions [N, B, A]; agent-major, as in training."""
        return torch.tanh(self.mlp(obs))

    @torch.no_grad()
    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """obs [..., N, O] -> actions [..., N, A] in [-1, 1]; an observation wider than the input is cut."""
        noise = 0.0 if deterministic else self.noise
        if obs.device.type == "cpu":
            actions = frozen.means(self.mlp.arrays(), obs.numpy())
            return torch.from_numpy(frozen.noisy(actions, noise, drawn(generator)) if noise else actions)
        flat = obs[..., : self.sizes[0]].reshape(-1, self.n_agents, self.sizes[0]).transpose(0, 1)
        found = self(flat).transpose(0, 1).reshape(*obs.shape[:-1], self.sizes[-1])
        if noise:
            draws = torch.randn(found.shape, generator=generator, device=found.device)
            found = (found + noise * draws).clamp_(-1.0, 1.0)
        return found


def drawn(generator: torch.Generator) -> int:
    """Draw a seed from ``generator``, which advances by one draw."""
    return int(torch.randint(2**63 - 1, (), generator=generator))


def acting(policy: Policy, generator: torch.Generator, deterministic: bool = False) -> frozen.Act:
    """Wrap a policy as a function of arrays."""

    def act(obs: frozen.Float32) -> frozen.Float32:
        return policy.act(torch.from_numpy(obs), generator, deterministic).numpy()

    return act


def save_actor(actor: Actor, path: Path) -> None:
    """Write the weights as safetensors, with the sizes in the JSON header."""
    header = json.dumps({"sizes": actor.sizes, "n_agents": actor.n_agents}, sort_keys=True)
    save_weights(actor.state_dict(), path, {"actor": header})


def load_actor(path: Path, noise: float = 0.0) -> Actor:
    """Read what ``save_actor`` wrote. Raises ValueError if the file is something else."""
    with safe_open(path, "pt") as file:
        shape = frozen.header(file.metadata(), path)
        actor = Actor(shape.sizes, shape.n_agents, [torch.Generator()], noise)
        actor.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return actor.eval()
