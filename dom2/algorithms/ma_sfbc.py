"""MA-SfBC: selecting from behaviour candidates (Chen et al. 2023), independently for each agent.

Three stages; no critic is evaluated at actions that the data's policy would not take:

    behaviour  mean |eps - eps_theta(alpha_i a + sigma_i eps, o, tau_i)|^2, i uniform on 1..N
    bank       M actions a_m of that model at each of many states, drawn once
    critic     mean (Q(o, a) - R)^2, with new critics in each of K iterations. R is the Monte-Carlo return G
               first, then R_t = r_t + gamma max(R_{t+1}, V_{t+1}), backwards along the data's trajectories,
               V_t = sum_m softmax_m(alpha Q(o_t, a_m)) Q(o_t, a_m)

Agents take the best of ``candidates`` actions of the behaviour model. Q learns returns normalised to mean 0
and standard deviation 1. Differences from the authors' code:
1. One model and one pair of critics for each agent, which see only its own observation and action.
2. The bank holds the last ``bank`` windows of ``horizon`` steps that the sampler drew for the behaviour
   model, not the whole dataset. At a window's last step R is G.
3. The smaller of two critics counts; the code makes two and uses one.
4. The loss uses only the times that the sampler visits. The sampler is of second order, not third, and clips
   the predicted action in every step.
5. The best candidate is always taken. The code draws one by a softmax that is nearly an argmax, and averages
   four in some tasks. ``dom2 evaluate --candidates C`` replaces ``candidates`` for C > 1.
6. V_t does not raise R_t itself, which is the value of the action taken at t, as in the paper; the code has
   R_t = max(r_t + gamma R_{t+1}, V_t).

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another. The agents of a seed have the same windows. All noise of seed s comes from generator s.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from dom2 import config
from dom2.bank import Bank, agents
from dom2.critic import td_loss
from dom2.diffusion_policy import Chain, DiffusionPolicy, draw
from dom2.members import Members, Metrics
from dom2.networks import ResidualNoise, TwinCritics
from dom2.schedule import VP, GridKind, time_grid
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.windows import Windows

CHUNK = 64  # windows whose actions are drawn, or rated, at a time


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of MA-SfBC; the defaults are the ``compact`` preset."""

    behaviour_updates: int = 2000
    """Updates of the behaviour model, before there are critics; a run of no more is behaviour cloning."""
    critic_updates: int = 1500
    """Updates of the critics in each iteration; any further ones continue the last iteration."""
    iterations: int = 2
    """K, how many times the critics are learned anew; 1 uses Monte-Carlo returns alone."""
    horizon: int = 10
    """Steps of a window of the bank."""
    bank: int = 4096
    """Windows in the bank."""
    n_actions: int = 16
    """M, actions of the behaviour model at each state of the bank."""
    alpha: float = 20.0
    """Inverse temperature of normalised Q in the value of a state."""
    candidates: int = 32
    """Actions that each agent draws when it acts, to take the best; 1 is behaviour cloning."""
    gamma: float = 0.95
    """Discount per environment step."""
    lr: float = 5e-3
    """Adam's step size, of the behaviour model."""
    critic_lr: float = 5e-3
    """Adam's step size, of the critics."""
    n_steps: int = 8
    """N, the number of denoising steps."""
    grid: GridKind = "quadratic"
    """Partition of the diffusion times, for the loss and the sampler."""
    order: int = 2
    """Order of the solver: 1 or 2 (multistep)."""
    beta_max: float = 20.0
    """Final value of the VP schedule's linear noise rate beta(t)."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    widths: tuple[int, ...] = (128, 64, 32)
    """The three widths of the residual noise network."""
    embed_dim: int = 64
    """Width of its embedding of time and observation."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        VP(beta_max=self.beta_max)  # raises ValueError for an unusable beta_max
        config.above_zero(self, "behaviour_updates", "critic_updates", "iterations", "horizon", "bank")
        config.above_zero(self, "n_actions", "candidates", "gamma", "lr", "critic_lr", "n_steps", "grad_clip")
        config.above_zero(self, "embed_dim")
        config.not_negative(self, "alpha")
        config.sizes(self, "widths", "critic_widths")
        config.within_unit(self, "gamma")
        # ``Bank.remember`` divides by gamma at every step.
        if (1 - self.horizon) * math.log10(self.gamma) > 4:
            found = f"gamma {self.gamma}, horizon {self.horizon}"
            raise ValueError(f"expected gamma ** (1 - horizon) of at most 10,000, found {found}")
        if self.order not in (1, 2) or len(self.widths) != 3:
            raise ValueError(f"expected order 1 or 2, three widths, found {self.order}, {self.widths}")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {
        "behaviour_updates": 100_000,
        "critic_updates": 25_000,
        "bank": 16_384,
        "n_steps": 15,
        "lr": 3e-4,
        "critic_lr": 1e-3,
        "widths": (512, 256, 128),
        "embed_dim": 128,
        "critic_widths": (256, 256),
    },
}


class MASfBC:
    """All members' behaviour models, banks and critics."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "windows"
    augment: ClassVar = "none"
    improves_after: ClassVar = "behaviour_updates"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        schedule = VP(beta_max=config.beta_max)
        grid = time_grid(config.grid, config.n_steps, schedule=schedule).to(members.device)
        self.alpha, self.sigma = schedule.alpha(grid).float(), schedule.sigma(grid).float()
        self.chain = Chain(schedule, grid, 1.0, config.order)
        self.shape = (members.n_seeds * spec.n_agents, spec.obs_dim, spec.act_dim)
        noise = ResidualNoise(*self.shape, grid, members.generators, config.widths, config.embed_dim)
        self.noise = members.learned("noise", noise, config.lr)
        self.critics = members.learned("critics", self._new_critics(), config.critic_lr)
        self.bank = members.fixed(
            "bank", Bank(*self.shape, config.bank, config.horizon, config.n_actions, members.device)
        )

    def phase(self) -> Hashable:
        """``Learner.phase``: the iteration; None for the behaviour model and when an iteration begins."""
        c, last = self.config, self.config.iterations - 1
        iteration, begun = divmod(self.members.updates - c.behaviour_updates, c.critic_updates)
        return None if iteration < 0 or (begun == 0 and iteration <= last) else min(iteration, last)

    def update(self, windows: Windows) -> Metrics:
        """Take one step of the behaviour model or, once it is learned, of the critics; metrics [M]."""
        c, done = self.config, self.members.updates
        self.members.updates += 1
        if done < c.behaviour_updates:
            self.bank.remember(windows, done, c.gamma)
            loss, metrics = self.behaviour_loss(windows)
            return metrics | {"behaviour/grad_norm": self.members.descend("noise", loss, c.grad_clip)}
        iteration, begun = divmod(done - c.behaviour_updates, c.critic_updates)
        if begun == 0 and iteration < c.iterations:
            self._begin(iteration)
        loss, metrics = self.critic_loss(windows)
        norm = self.members.descend("critics", loss, c.grad_clip)
        return metrics | {"critic/grad_norm": norm.view(-1, 2).amax(dim=1)}

    def behaviour_loss(self, windows: Windows) -> tuple[Tensor, Metrics]:
        """Error of the predicted noise at each window's first step, a mean for each member, summed."""
        obs, actions = (agents(values[:, :, 0], 2) for values in (windows.obs, windows.actions))
        i = self.members.integers(1, self.config.n_steps + 1, like=actions[..., 0])
        eps = self.members.normal(actions)
        noisy = self.alpha[i].unsqueeze(-1) * actions + self.sigma[i].unsqueeze(-1) * eps
        loss = (self.noise.given(obs)(noisy, i) - eps).square().mean(dim=(1, 2))
        return loss.sum(), {"behaviour/loss": loss.detach()}

    def critic_loss(self, windows: Windows) -> tuple[Tensor, Metrics]:
        """Squared error to R at as many states of the bank as there are windows, summed over critics.

        Every step of the data is equally likely, although an episode's first steps are in fewer windows.
        """
        bank, size = self.bank, windows.obs.shape[1]
        row = bank.find(self.members.integers(0, 2**62, like=bank.iteration.expand(-1, size)))
        obs, actions, returns = (
            values.flatten(1, 2)[torch.arange(len(row), device=row.device).unsqueeze(1), row]
            for values in (bank.obs, bank.actions, bank.returns)
        )
        q = self.critics(obs, actions.unsqueeze(1))[:, :, 0]
        loss = td_loss(q, (returns - bank.centre) / bank.spread)
        metrics = {"critic/td": loss.mean(dim=1), "critic/return": returns.mean(dim=1)}
        return loss.sum(), {k: v.detach() for k, v in metrics.items()}

    @torch.no_grad()
    def value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """V at obs [M, B, O] from actions [M, B, K, A], in the units of the returns, [M, B]."""
        q = self.critics(obs, actions.transpose(1, 2)).amin(dim=1)
        return (q * (self.config.alpha * q).softmax(dim=1)).sum(dim=1) * self.bank.spread + self.bank.centre

    @torch.no_grad()
    def _begin(self, iteration: int) -> None:
        """Draw the bank's candidates or, later, back the last critics' values up; then make new critics."""
        bank, c = self.bank, self.config
        if iteration == 0:
            bank.arrange()
            for part in torch.arange(c.bank, device=self.members.device).split(CHUNK):
                obs = bank.obs[:, part].flatten(1, 2)
                rows, a = obs.shape[1], self.spec.act_dim
                noise = self.members.normal(obs.new_empty(()).expand(len(obs), c.n_actions * rows, a))
                actions = draw(self.chain, self.noise, obs, noise)
                actions = actions.view(-1, c.n_actions, len(part), c.horizon, a)
                bank.candidates[:, part] = actions.movedim(1, 3)
        else:
            value = torch.empty_like(bank.returns)
            for part in torch.arange(c.bank, device=self.members.device).split(CHUNK):
                actions = bank.candidates[:, part].flatten(1, 2)
                value[:, part] = self.value(bank.obs[:, part].flatten(1, 2), actions).view(
                    -1, len(part), c.horizon
                )
            bank.returns.copy_(backup(bank.rewards, bank.taken, bank.monte_carlo, value, c.gamma))
        bank.normalise()
        bank.iteration.fill_(iteration + 1)
        self.critics.load_state_dict(self._new_critics().state_dict())
        self.members.optimisers["critics"].state.clear()

    def _new_critics(self) -> TwinCritics:
        return TwinCritics(*self.shape, self.members.generators, self.config.critic_widths, silu)

    def policy(self, seed: int, candidates: int = 1) -> DiffusionPolicy:
        """A snapshot of one seed's N agents; ``candidates`` of 1 means ``config.candidates``.

        Before there are critics the behaviour model acts alone, and more than one candidate raises UserError
        (usage).
        """
        noise = self.members.snapshot(self.noise, seed)
        critics = self.members.snapshot(self.critics, seed)
        chosen = candidates if candidates > 1 else self.config.candidates
        rated = bool(self.bank.iteration.chunk(self.members.n_seeds)[seed].all())
        if candidates > 1 and not rated:
            raise UserError(
                f"expected 1 candidate, since there are no critics before update "
                f"{self.config.behaviour_updates:,}, found {candidates}; leave it out or train on"
            )
        return DiffusionPolicy(noise, critics, self.chain, self.spec, chosen if rated else 1)


def backup(rewards: Tensor, taken: Tensor, monte_carlo: Tensor, value: Tensor, gamma: float) -> Tensor:
    """R_h = r_h + gamma max(R_{h+1}, V_{h+1}) backwards along windows [M, W, H]; G at the last step.

    V_h does not enter R_h itself, which is the value of the action taken at h.
    """
    returns = monte_carlo.clone()
    for h in range(rewards.shape[2] - 2, -1, -1):
        on = rewards[:, :, h] + gamma * torch.maximum(returns[:, :, h + 1], value[:, :, h + 1])
        returns[:, :, h] = torch.where(taken[:, :, h + 1], on, returns[:, :, h])
    return returns
