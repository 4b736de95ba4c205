"""Diffusion policies: denoising chains, and a policy in which one seed's agents act by such a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dom2.networks import MLPNoise, Noise, ResidualNoise, TwinCritics
from dom2.schedule import VP
from dom2.solver import ancestral, sample
from dom2data.spec import EnvSpec

NoiseNetwork = ResidualNoise | MLPNoise


class NoiseToAction(Protocol):
    """A denoising chain: noise [M, B, draws x A] -> actions [M, B, A] in [-1, 1]."""

    @property
    def draws(self) -> int: ...

    def __call__(self, eps_fn: Noise, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Chain:
    """The denoising chain of Eq. (4), corrected: noise [M, B, A] -> actions [M, B, A] in [-1, 1]."""

    schedule: VP
    grid: Tensor
    clip: float | None
    order: int
    draws: ClassVar[int] = 1  # noise vectors for one action

    def __call__(self, eps_fn: Noise, x: Tensor) -> Tensor:
        return sample(eps_fn, x, self.schedule, self.grid, self.clip, self.order).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Ancestral:
    """DDPM's chain: noise [M, B, N x A] -> actions [M, B, A] in [-1, 1]."""

    schedule: VP
    grid: Tensor

    @property
    def draws(self) -> int:
        return len(self.grid) - 1

    def __call__(self, eps_fn: Noise, x: Tensor) -> Tensor:
        noise = torch.stack(x.chunk(self.draws, dim=-1))
        return ancestral(eps_fn, noise, self.schedule, self.grid, clip=1.0).clamp(-1.0, 1.0)


ENOUGH = 256
"""rows in a matrix product that keep a core busy"""


def draw(chain: NoiseToAction, noise: NoiseNetwork, obs: Tensor, x: Tensor) -> Tensor:
    """Actions [M, C x B, A] from noise x: C candidates for each of the observations [M, B, O].

    Process as many candidates at a time as fit into ``ENOUGH`` rows, and at least one. Intermediate results
    then stay in a CPU's cache (all candidates at once take three times as long), and a small evaluation does
    not take one small step for each candidate. The observations' part is computed once.
    """
    rows, copies = obs.shape[1], x.shape[1] // obs.shape[1]
    together = max(n for n in range(1, copies + 1) if copies % n == 0 and (n == 1 or n * rows <= ENOUGH))
    eps_fn = noise.given(obs.repeat(1, together, 1))
    return torch.cat([chain(eps_fn, part) for part in x.split(together * rows, dim=1)], dim=1)


class DiffusionPolicy:
    """One seed's agents; each runs its own chain on its own observation.

    With C > 1 candidates each agent draws C actions and takes the one with the highest Q, the smaller of its
    two critics' values; the paper draws one.
    """

    def __init__(
        self,
        noise: NoiseNetwork,
        critics: TwinCritics,
        chain: NoiseToAction,
        spec: EnvSpec,
        candidates: int = 1,
    ):
        self.noise, self.critics, self.chain = noise, critics, chain
        self.spec, self.candidates = spec, candidates

    @torch.no_grad()
    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """obs [..., N, O] -> actions [..., N, A]; if deterministic, the chain starts at zero, not noise."""
        n, a = self.spec.n_agents, self.spec.act_dim
        own = obs.reshape(-1, n, obs.shape[-1]).transpose(0, 1)
        x = torch.zeros(n, self.candidates * own.shape[1], self.chain.draws * a, device=obs.device)
        if not deterministic:
            x = torch.randn(x.shape, generator=generator, device=obs.device)
        actions = draw(self.chain, self.noise, own, x)
        if self.candidates > 1:
            choices = actions.view(n, self.candidates, -1, a)
            best = self.critics(own, choices).amin(dim=1).argmax(dim=1, keepdim=True)
            actions = choices.take_along_dim(best.unsqueeze(-1), dim=1).squeeze(1)
        return actions.transpose(0, 1).reshape(*obs.shape[:-1], a)
