"""MADiff: planning with an attention-based diffusion model (Zhu et al. 2024).

A diffusion model of all agents' next H observations, and inverse dynamics that turn them into actions:

    plan     mean |eps - eps_theta(alpha_i tau + sigma_i eps, i, R)|^2, tau the observations o_t..o_{t+H-1} of
             all agents, i uniform on 1..K, R the return from t on, left out with probability ``dropout``
    inverse  mean |f_j(o_t, o_{t+1}) - a_t|^2, for each agent j

To act, K steps turn noise into a plan, with eps = eps(nothing) + w (eps(target) - eps(nothing)) and the first
step held at the observation. ``centralised`` (MADiff-C) makes one plan from what all agents observe;
with ``decentralised`` (MADiff-D) each agent plans for the team from its own observation. Differences from
the authors' code:
1. The schedule is VP(0.1, 20) at K even times, instead of a capped cosine at 200.
2. Observations are standardised by the first minibatch's moments, and returns scaled to [0, 1] by the least
   and the largest seen so far, instead of by hand-set scales.
3. An input channel tells the network which first steps are observed; in training for ``decentralised`` it is
   one agent's, drawn for each window.
4. Layer normalisation over channels instead of over groups; no observations before the present one.
5. Steps past an episode's end are left out of the losses. Gradients are clipped.
6. Each agent has its own inverse dynamics, with tanh at the end.
7. One residual block at each level instead of two, and narrower embeddings of time and return; features are
   upsampled before they are joined to the skip connection.
8. All agents share one return, the team's mean, which is left out for all of them at once.

There is one model and one loss for each of S seeds, and inverse dynamics for each of M = S x N members.
Losses are means, summed, so seeds do not affect one another. All noise of seed s comes from generator s.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dom2 import config
from dom2.members import Members, Metrics
from dom2.schedule import VP
from dom2.solver import ancestral, sample
from dom2.temporal import HEADS, TemporalUNet
from dom2_policies.policy import Actor
from dom2_policies.stacked import polyak_
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.windows import Windows

SCHEDULE = VP(beta_max=20.0)
LIMIT = 5.0  # largest standardised observation in a plan


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of MADiff; the defaults are the ``compact`` preset."""

    execution: Literal["decentralised", "centralised"] = "decentralised"
    """Each agent plans from its own observation (MADiff-D), or all from everyone's (MADiff-C)."""
    horizon: int = 8
    """H, observations in a plan, the present one included; no more than an episode has."""
    guidance: float = 1.2
    """w, weight of the return in planning; 0 leaves it out, 1 is the conditional model."""
    target: float = 0.9
    """Return that plans are conditioned on, between the smallest (0) and the largest (1) of the data."""
    dropout: float = 0.25
    """Probability of leaving the return out in training."""
    temperature: float = 0.5
    """Scale of the noise from which a plan begins."""
    n_steps: int = 20
    """K, the number of denoising steps in training."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """How a plan is made: with new noise in every step (ddpm), or without (ddim)."""
    stride: int = 1
    """How many of the K steps ``ddim`` takes at once; ``ddpm`` takes every one."""
    gamma: float = 0.99
    """Discount of the returns."""
    rho: float = 0.02
    """Rate of the soft update of the model that makes plans."""
    lr: float = 5e-3
    """Adam's step size, of both networks."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    dim: int = 32
    """Channels of the U-Net's first level."""
    mults: tuple[int, ...] = (1, 2)
    """Channels of each level, in units of ``dim``."""
    inverse_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of the inverse dynamics."""

    def __post_init__(self) -> None:
        config.above_zero(self, "gamma", "rho", "lr", "grad_clip", "n_steps", "stride", "dim", "temperature")
        config.not_negative(self, "guidance")
        config.sizes(self, "mults", "inverse_widths")
        config.within_unit(self, "dropout", "gamma", "rho")
        parts = 2 ** (len(self.mults) - 1)
        if self.horizon < 2 or self.horizon % parts or self.n_steps % self.stride:
            found = f"horizon {self.horizon}, n_steps {self.n_steps}, stride {self.stride}"
            raise ValueError(f"expected horizon divisible by {parts}, n_steps by stride, found {found}")
        if self.stride > 1 and self.sampler == "ddpm":
            raise ValueError(f"expected stride 1 with sampler ddpm, found {self.stride}; ddim has strides")
        if any(self.dim * mult % HEADS for mult in self.mults):
            raise ValueError(f"expected dim x mults divisible by {HEADS}, found {self.dim} x {self.mults}")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {
        "horizon": 24,
        "n_steps": 200,
        "dim": 128,
        "mults": (1, 4, 8),
        "inverse_widths": (256, 256),
        "lr": 2e-4,
        "rho": 0.005,
    },
}


class MADiff:
    """All seeds' planners, all members' inverse dynamics."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "windows"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        if config.horizon > spec.horizon + 1:  # steps that no episode reaches would never be learned
            raise UserError(
                f"expected a horizon of at most the {spec.horizon + 1} observations of an episode, "
                f"found {config.horizon}; choose a smaller --horizon"
            )
        self.config, self.spec, self.members = config, spec, members
        self.grid = torch.linspace(0.0, 1.0, config.n_steps + 1).to(members.device)
        self.alpha, self.sigma = SCHEDULE.alpha(self.grid), SCHEDULE.sigma(self.grid)
        seeds, n, generators = members.n_seeds, spec.n_agents, members.generators
        model = TemporalUNet(seeds, spec.obs_dim, self.grid, generators, config.dim, config.mults)
        self.model = members.learned("model", model, config.lr)
        sizes = (2 * spec.obs_dim, *config.inverse_widths, spec.act_dim)
        self.inverse = members.learned("inverse", Actor(sizes, seeds * n, generators), config.lr)
        self.planner = members.fixed("planner", model)
        self.scale = members.fixed("scale", Scale(seeds, n, spec.obs_dim, members.device))

    def phase(self) -> Hashable:
        """``Learner.phase``: None for the first update, which also sets the scale."""
        return None if self.members.updates == 0 else 0

    def update(self, windows: Windows) -> Metrics:
        """Take one step of model and inverse dynamics; metrics are tensors, [S] and [M] respectively."""
        self.scale.learn(windows, first=self.members.updates == 0)
        loss, metrics = self.plan_loss(windows)
        metrics["plan/grad_norm"] = self.members.descend("model", loss, self.config.grad_clip)
        loss, found = self.inverse_loss(windows)
        metrics |= found | {"inverse/grad_norm": self.members.descend("inverse", loss, self.config.grad_clip)}
        polyak_(self.planner, self.model, self.config.rho)
        self.members.updates += 1
        return metrics

    def plan_loss(self, windows: Windows) -> tuple[Tensor, Metrics]:
        """Error of the predicted noise at the data's steps that are not known; means per seed, summed."""
        c, members = self.config, self.members
        plan = self.scale.standardise(windows.obs.transpose(2, 3))  # [S, B, N, H, O]
        i = members.integers(1, c.n_steps + 1, like=windows.taken[..., 0])
        eps = members.normal(plan)
        own = members.integers(0, self.spec.n_agents, like=i)  # for both kinds, which agree for N = 1
        # Not one_hot, which reads its range back to the host.
        known = (own.unsqueeze(-1) == torch.arange(self.spec.n_agents, device=own.device)).float()
        if c.execution == "centralised":
            known = torch.ones_like(known)
        given = (members.integers(0, 1000, like=i) >= 1000 * c.dropout).float()
        alpha, sigma = (values[i][..., None, None, None] for values in (self.alpha, self.sigma))
        noisy = hold(alpha * plan + sigma * eps, plan[:, :, :, 0], known)
        predicted = self.model(noisy, known, i, self.scale.share(windows.returns), given)
        counts = torch.cat([torch.ones_like(windows.taken[..., :1]), windows.taken[..., :-1]], dim=2)
        counts = counts.unsqueeze(2).repeat(1, 1, self.spec.n_agents, 1)  # in the data, for each agent
        counts[..., 0] -= known
        errors = (predicted - eps).square().mean(dim=-1) * counts
        loss = errors.sum(dim=(1, 2, 3)) / counts.sum(dim=(1, 2, 3)).clamp_min(1.0)
        return loss.sum(), {"plan/loss": loss.detach()}

    def inverse_loss(self, windows: Windows) -> tuple[Tensor, Metrics]:
        """Squared error of the predicted action between two observations, a mean per member, summed."""
        obs = self.scale.standardise(windows.obs.transpose(2, 3))
        pairs = torch.cat([obs[:, :, :, :-1], obs[:, :, :, 1:]], dim=-1).transpose(1, 2)  # [S, N, B, H-1, 2O]
        actions = windows.actions.movedim(3, 1)[:, :, :, :-1]
        found = self.inverse(pairs.flatten(0, 1).flatten(1, 2)).view(-1, *actions.shape[2:])
        errors = (found - actions.flatten(0, 1)).square().mean(dim=-1)
        counts = windows.taken[..., :-1].repeat_interleave(self.spec.n_agents, dim=0)
        loss = (errors * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp_min(1.0)
        return loss.sum(), {"inverse/loss": loss.detach()}

    def policy(self, seed: int, candidates: int = 1) -> PlanningPolicy:
        """A snapshot of one seed's planner. Raises UserError (usage) for more than one candidate."""
        if candidates != 1:
            raise UserError(
                f"expected 1 candidate, since plans are not rated, found {candidates}; leave it out"
            )
        model = self.members.snapshot(self.planner, seed)
        inverse, scale = self.members.snapshot(self.inverse, seed), self.members.snapshot(self.scale, seed)
        return PlanningPolicy(model, inverse, scale, self.config, self.grid)


class PlanningPolicy:
    """One seed's team, which makes a new plan at every step and takes its first action."""

    def __init__(self, model: TemporalUNet, inverse: Actor, scale: Scale, config: Config, grid: Tensor):
        self.model, self.inverse, self.scale, self.config = model, inverse, scale, config
        self.grid = grid[:: config.stride] if config.sampler == "ddim" else grid

    @torch.no_grad()
    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """obs [..., N, O] -> actions [..., N, A]; deterministic plans from zero, without noise."""
        n = obs.shape[-2]
        seen = self.scale.standardise(obs.reshape(1, -1, n, 1, obs.shape[-1]))[:, :, :, 0]  # [1, E, N, O]
        if self.config.execution == "centralised":
            following = self.plan(seen, torch.ones_like(seen[..., 0]), generator, deterministic)[:, :, :, 1]
        else:  # a plan for each agent: rows e N + j know what agent j of row e sees
            own = torch.eye(n, device=obs.device).repeat(seen.shape[1], 1).unsqueeze(0)
            plans = self.plan(seen.repeat_interleave(n, dim=1), own, generator, deterministic)
            following = plans.unflatten(1, (-1, n)).diagonal(dim1=2, dim2=3)[:, :, 1].movedim(-1, 2)
        pairs = torch.cat([seen, following], dim=-1)[0].transpose(0, 1)
        return self.inverse(pairs).transpose(0, 1).reshape(*obs.shape[:-1], -1)

    def plan(self, seen: Tensor, known: Tensor, generator: torch.Generator, deterministic: bool) -> Tensor:
        """Standardised plans [1, R, N, H, O] from ``seen`` [1, R, N, O] where ``known`` [1, R, N] is 1."""
        c = self.config
        shape = (*seen.shape[:3], c.horizon, seen.shape[-1])
        steps = len(self.grid) - 1 if c.sampler == "ddpm" else 1
        noise = torch.zeros(steps, *shape, device=seen.device)
        if not deterministic:
            noise = torch.randn(noise.shape, generator=generator, device=seen.device)
        noise[0] *= c.temperature

        def eps(x: Tensor, i: int) -> Tensor:
            return self.guided(hold(x, seen, known), known, i)

        if c.sampler == "ddpm":
            plan = ancestral(eps, noise, SCHEDULE, self.grid, LIMIT)
        else:
            plan = sample(eps, noise[0], SCHEDULE, self.grid, LIMIT)
        return hold(plan, seen, known)

    def guided(self, x: Tensor, known: Tensor, i: int) -> Tensor:
        """Predicted noise without a return, plus w times the change that the target return makes."""
        c, without = self.config, torch.zeros_like(x[:, :, 0, 0, 0])
        i *= c.stride if c.sampler == "ddim" else 1
        if c.guidance == 0.0:
            return self.model(x, known, i, without, without)
        given = torch.cat([without, torch.ones_like(without)], dim=1)  # both at once: half the calls
        both = self.model(x.repeat(1, 2, 1, 1, 1), known.repeat(1, 2, 1), i, c.target * given, given)
        plain, conditional = both.chunk(2, dim=1)
        return plain + c.guidance * (conditional - plain)


class Scale(nn.Module):
    """Moments of each agent's observations, and the range of the team's returns."""

    mean: Tensor  # [S, N, O]
    std: Tensor  # [S, N, O]
    low: Tensor  # [S, 1]
    high: Tensor  # [S, 1]

    def __init__(self, seeds: int, n_agents: int, obs_dim: int, device: torch.device):
        super().__init__()
        self.register_buffer("mean", torch.zeros(seeds, n_agents, obs_dim, device=device))
        self.register_buffer("std", torch.ones(seeds, n_agents, obs_dim, device=device))
        self.register_buffer("low", torch.full((seeds, 1), torch.inf, device=device))
        self.register_buffer("high", torch.full((seeds, 1), -torch.inf, device=device))

    def learn(self, windows: Windows, first: bool) -> None:
        """Widen the range; if ``first``, set the moments to those of the first steps (std at least 0.05)."""
        if first:
            start = windows.obs[:, :, 0]
            self.mean.copy_(start.mean(dim=1))
            self.std.copy_(start.std(dim=1, correction=0).clamp_min(0.05))
        team = windows.returns.mean(dim=2)
        self.low.copy_(torch.minimum(self.low, team.amin(dim=1, keepdim=True)))
        self.high.copy_(torch.maximum(self.high, team.amax(dim=1, keepdim=True)))

    def standardise(self, obs: Tensor) -> Tensor:
        """Standardise [S, B, N, H, O] by each agent's moments, clipped to ``LIMIT``."""
        shape = (len(self.mean), 1, self.mean.shape[1], 1, -1)
        return ((obs - self.mean.view(shape)) / self.std.view(shape)).clamp(-LIMIT, LIMIT)

    def share(self, returns: Tensor) -> Tensor:
        """Agents' returns [S, B, N] -> the team's [S, B], scaled so the range seen so far is [0, 1]."""
        return (returns.mean(dim=2) - self.low) / (self.high - self.low).clamp_min(1e-6)


def hold(x: Tensor, seen: Tensor, known: Tensor) -> Tensor:
    """x [S, B, N, H, O] with its first step set to ``seen`` [S, B, N, O] where ``known`` [S, B, N] is 1."""
    first = torch.where(known.unsqueeze(-1) > 0, seen, x[:, :, :, 0])
    return torch.cat([first.unsqueeze(3), x[:, :, :, 1:]], dim=3)
