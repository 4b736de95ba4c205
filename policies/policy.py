"""Policies act; nothing here learns. On a CPU, actors act alike to the bit on every one (``portable``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dom2_policies import portable
from dom2_policies.stacked import StackedMLP


class Policy(Protocol):
    """Maps joint observations to joint actions, each agent from its own observation alone."""

    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """obs [..., N, O] -> actions [..., N, A]; all randomness comes from ``generator``."""
        ...


class Uniform:
    """Uniform actions in [low, high] whatever is observed (and whatever ``deterministic`` says)."""

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
        """As many as there are networks in the stack, also in a part cut out of a larger one."""
        return len(next(self.mlp.parameters()))

    def forward(self, obs: Tensor) -> Tensor:
        """obs [N, B, O] -> mean actions [N, B, A]; agent-major, as training wants it."""
        return torch.tanh(self.mlp(obs))

    @torch.no_grad()
    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """obs [..., N, O] -> actions [..., N, A] in [-1, 1]; an observation wider than the network is cut."""
        lead, on_cpu = obs.shape[:-2], obs.device.type == "cpu"
        flat = obs[..., : self.sizes[0]].reshape(-1, self.n_agents, self.sizes[0]).transpose(0, 1)
        actions = (self._portable(flat) if on_cpu else self(flat)).transpose(0, 1)
        if self.noise and not deterministic:
            noise = (
                torch.from_numpy(portable.normal(generator, actions.shape))
                if on_cpu
                else torch.randn(actions.shape, generator=generator, device=actions.device)
            )
            actions = (actions + self.noise * noise).clamp_(-1.0, 1.0)
        return actions.reshape(*lead, self.n_agents, self.sizes[-1])

    def _portable(self, obs: Tensor) -> Tensor:
        """``forward``, rounded alike everywhere and whatever the number of rows."""
        return torch.from_numpy(portable.tanh(portable.forward(self.mlp.arrays(), obs.numpy())[-1]))


def save_actor(actor: Actor, path: Path) -> None:
    """Write the weights as safetensors, the sizes in its JSON header."""
    header = json.dumps({"sizes": actor.sizes, "n_agents": actor.n_agents}, sort_keys=True)
    save_file({k: v.contiguous() for k, v in actor.state_dict().items()}, path, metadata={"actor": header})


def load_actor(path: Path, noise: float = 0.0) -> Actor:
    """Read what ``save_actor`` wrote. Raises ValueError when the file is something else."""
    with safe_open(path, "pt") as file:
        header = (file.metadata() or {}).get("actor")
        if header is None:
            raise ValueError(f"{path}: expected an actor's safetensors file, found one without its header")
        shape = json.loads(header)
        actor = Actor(shape["sizes"], shape["n_agents"], [torch.Generator()], noise)
        actor.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return actor.eval()
