"""MA-Diffusion-QL: Diffusion-QL (Wang, Hunt and Zhou 2023), independently for each agent.

DOM2's nearest relative, without its conservative term and its solver:

    critics  sum_k mean (y - Q_k(o, a))^2,  y = r + gamma min_k Qbar_k(o', a'), a' from the target policy
    Eq. (2)  L_d = mean |eps - eps_theta(alpha_i a + sigma_i eps, o, i)|^2, i uniform on 1..N
    Eq. (3)  L = L_d - eta mean Q_k(o, a0) / mean |Q_l(o, a0)|, (k, l) = (1, 2) or (2, 1) at random

a0 is drawn by the N = 5 ancestral steps of DDPM, through which the gradient runs. Differences from the
authors' code:
1. One policy and two critics for each agent, which see only its own observation and action.
2. Agents take the best of ``candidates`` actions by the smaller critic; the code draws one of 50 by a softmax
   of the smaller target critic.
3. The target policy is updated at every update; the code's at every fifth, after the first 1,000.
4. No selection of the best checkpoint by returns. eta, rho, gamma and widths of ``compact`` are not theirs.

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another. All noise of seed s comes from generator s.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dom2 import config
from dom2.critic import td_loss, td_target
from dom2.diffusion_policy import Ancestral, DiffusionPolicy
from dom2.members import Members, Metrics
from dom2.networks import MLPNoise, TwinCritics, mish
from dom2.schedule import VP
from dom2_policies.stacked import polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of MA-Diffusion-QL; the defaults are the ``compact`` preset."""

    eta: float = 1.0
    """Weight of the Q term in the policy loss, Eq. (3), before division by mean |Q|; 0 is pure cloning."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update."""
    lr: float = 5e-3
    """Adam's step size, actor and critics."""
    candidates: int = 50
    """Actions that each agent draws when it acts, to take the best; 1 takes the one that is drawn."""
    n_steps: int = 5
    """N, the number of denoising steps."""
    beta_max: float = 10.0
    """Final value of the VP schedule's linear noise rate beta(t); the schedule is evaluated at t = i / N."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    widths: tuple[int, ...] = (128, 128, 128)
    """Hidden widths of the noise network."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        VP(beta_max=self.beta_max)  # raises ValueError for an unusable beta_max
        config.above_zero(self, "candidates", "n_steps", "rho", "lr", "grad_clip")
        config.not_negative(self, "eta")
        config.sizes(self, "widths", "critic_widths")
        config.within_unit(self, "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"widths": (256, 256, 256), "critic_widths": (256, 256, 256), "lr": 3e-4, "rho": 0.005},
}


class MADiffusionQL:
    """All members' noise networks, critics and targets."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "independent"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        schedule, grid = VP(beta_max=config.beta_max), torch.linspace(0.0, 1.0, config.n_steps + 1)
        grid = grid.to(members.device)
        self.alpha, self.sigma = schedule.alpha(grid), schedule.sigma(grid)
        self.chain = Ancestral(schedule, grid)
        shape = (members.n_seeds * spec.n_agents, spec.obs_dim, spec.act_dim)
        noise = MLPNoise(*shape, grid, members.generators, config.widths)
        critics = TwinCritics(*shape, members.generators, config.critic_widths, mish)
        self.noise = members.learned("noise", noise, config.lr)
        self.critics = members.learned("critics", critics, config.lr)
        self.target_noise = members.fixed("target_noise", noise)
        self.target_critics = members.fixed("target_critics", critics)

    def phase(self) -> Hashable:
        """``Learner.phase``: every update runs the same program."""
        return 0

    def update(self, batch: Batch) -> Metrics:
        """Take one step of critics, policies and targets (Algorithm 1); metrics are tensors [M]."""
        loss, critic_metrics = self.critic_loss(batch)
        critic_norm = self.members.descend("critics", loss, self.config.grad_clip)
        loss, actor_metrics = self.actor_loss(batch)
        actor_norm = self.members.descend("noise", loss, self.config.grad_clip)
        polyak_(self.target_critics, self.critics, self.config.rho)
        polyak_(self.target_noise, self.noise, self.config.rho)
        self.members.updates += 1
        norms = {"critic/grad_norm": critic_norm.view(-1, 2).amax(dim=1), "actor/grad_norm": actor_norm}
        return critic_metrics | actor_metrics | norms

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared TD error, a mean for each critic of each member, summed over all of them."""
        with torch.no_grad():
            next_actions = self.actions(self.target_noise, batch.next_obs)
            next_q = self.target_critics(batch.next_obs, next_actions.unsqueeze(1))[:, :, 0]
            target = td_target(batch.rewards, batch.terminated, next_q, self.config.gamma)
        q = self.critics(batch.obs, batch.actions.unsqueeze(1))[:, :, 0]
        td = td_loss(q, target)
        metrics = {"critic/td": td, "critic/q_data": q.mean(dim=-1)}
        return td.sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equations (2) and (3), a mean for each member, summed over members."""
        i = self.members.integers(1, self.config.n_steps + 1, like=batch.rewards)
        eps = self.members.normal(batch.actions)
        noisy = self.alpha[i].unsqueeze(-1) * batch.actions + self.sigma[i].unsqueeze(-1) * eps
        bc = (self.noise.given(batch.obs)(noisy, i) - eps).square().mean(dim=(1, 2))
        if self.config.eta == 0.0:
            return bc.sum(), {"actor/bc": bc.detach()}
        q = self.critics(batch.obs, self.actions(self.noise, batch.obs).unsqueeze(1))[:, :, 0]
        size, q = q.detach().abs().mean(dim=-1), q.mean(dim=-1)
        one = self.members.integers(0, 2, like=batch.rewards[:, :1])  # which critic, for each member
        improve = q.gather(1, one) / size.gather(1, 1 - one).clamp_min(1e-6)
        metrics = {"actor/bc": bc, "actor/q": q.mean(dim=1)}
        return (bc - self.config.eta * improve.squeeze(1)).sum(), {k: v.detach() for k, v in metrics.items()}

    def actions(self, noise: MLPNoise, obs: Tensor) -> Tensor:
        """One action for each observation, [M, B, A]."""
        like = obs.new_empty(()).expand(*obs.shape[:2], self.chain.draws * self.spec.act_dim)
        return self.chain(noise.given(obs), self.members.normal(like))

    def policy(self, seed: int, candidates: int = 1) -> DiffusionPolicy:
        """A snapshot of one seed's N agents; ``candidates`` of 1 means ``config.candidates``."""
        noise = self.members.snapshot(self.noise, seed)
        critics = self.members.snapshot(self.critics, seed)
        chosen = candidates if candidates > 1 else self.config.candidates
        return DiffusionPolicy(noise, critics, self.chain, self.spec, chosen)
