"""MA-TD3+BC: TD3 with a cloning term (Fujimoto and Gu 2021), independently for each agent.

    critics  sum_k mean (y - Q_k(o, a))^2,
             y = r + gamma min_k Qbar_k(o', clip(pibar(o') + e)),  e = clip(N(0, sigma^2), -c, c)
    actor    mean (pi(o) - a)^2 - lambda mean Q_1(o, pi(o)),  lambda = alpha / mean |Q_1(o, pi(o))|

Differences from the single-agent paper:
1. One actor and two critics for each agent, which see only its own observation and action.
2. Observations of the particle tasks, of order one, are not normalised; the loop normalises halfcheetah's.
3. Gradients are clipped per network; gamma, rho, widths and step size of ``compact`` are not the paper's.

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another. All noise of seed s comes from generator s.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dom2 import actor, config
from dom2.critic import td_loss, td_target
from dom2.members import Members, Metrics
from dom2.networks import TwinCritics
from dom2_policies.policy import Actor
from dom2_policies.stacked import polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of MA-TD3+BC; the defaults are the ``compact`` preset."""

    alpha: float = 2.5
    """Weight of Q in the actor loss, before division by mean |Q|; 0 is behaviour cloning."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update."""
    lr: float = 5e-3
    """Adam's step size, actor and critics."""
    smoothing: float = 0.2
    """sigma, standard deviation of the noise on the target's action."""
    smoothing_clip: float = 0.5
    """c, bound on that noise."""
    policy_delay: int = 2
    """Critic updates per update of the actor and the targets."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        config.above_zero(self, "rho", "lr", "policy_delay", "grad_clip")
        config.not_negative(self, "alpha", "smoothing", "smoothing_clip")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"actor_widths": (256, 256), "critic_widths": (256, 256), "lr": 3e-4, "rho": 0.005},
}


class MATD3BC:
    """All members' actors, critics and targets."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "independent"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        shape = (members.n_seeds * spec.n_agents, spec.obs_dim, spec.act_dim)
        actors = actor.tanh_actors(members, spec, config.actor_widths)
        self.actor = members.learned("actor", actors, config.lr)
        critics = TwinCritics(*shape, members.generators, config.critic_widths)
        self.critics = members.learned("critics", critics, config.lr)
        self.target_actor = members.fixed("target_actor", actors)
        self.target_critics = members.fixed("target_critics", critics)

    def phase(self) -> Hashable:
        """``Learner.phase``: whether the update includes the actors."""
        return (self.members.updates + 1) % self.config.policy_delay == 0

    def update(self, batch: Batch) -> Metrics:
        """Take one step of the critics and, every ``policy_delay`` updates, of the actor and the targets.

        Metrics are tensors [M], on the device; they include the actor's when it was updated.
        """
        c = self.config
        loss, metrics = self.critic_loss(batch)
        norm = self.members.descend("critics", loss, c.grad_clip)
        metrics |= {"critic/grad_norm": norm.view(-1, 2).amax(dim=1)}
        self.members.updates += 1
        if self.members.updates % c.policy_delay == 0:
            loss, actor_metrics = self.actor_loss(batch)
            norm = self.members.descend("actor", loss, c.grad_clip)
            metrics |= actor_metrics | {"actor/grad_norm": norm}
            polyak_(self.target_critics, self.critics, c.rho)
            polyak_(self.target_actor, self.actor, c.rho)
        return metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared TD error, a mean for each critic of each member, summed over all of them."""
        c = self.config
        with torch.no_grad():
            noise = self.members.normal(batch.actions).mul_(c.smoothing)
            noise = noise.clamp_(-c.smoothing_clip, c.smoothing_clip)
            next_actions = (self.target_actor(batch.next_obs) + noise).clamp_(-1.0, 1.0)
            next_q = self.target_critics(batch.next_obs, next_actions.unsqueeze(1))[:, :, 0]
            target = td_target(batch.rewards, batch.terminated, next_q, c.gamma)
        q = self.critics(batch.obs, batch.actions.unsqueeze(1))[:, :, 0]
        td = td_loss(q, target)
        metrics = {"critic/td": td, "critic/q_data": q.mean(dim=-1)}
        return td.sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cloning loss minus normalised Q, a mean for each member, summed over members."""
        actions = self.actor(batch.obs)
        bc = (actions - batch.actions).square().mean(dim=(1, 2))
        q = self.critics.first(batch.obs, actions.unsqueeze(1))[:, 0]
        scale = self.config.alpha / q.detach().abs().mean(dim=-1).clamp_min(1e-6)
        metrics = {"actor/bc": bc, "actor/q": q.mean(dim=-1), "actor/lambda": scale}
        return (bc - scale * q.mean(dim=-1)).sum(), {k: v.detach() for k, v in metrics.items()}

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents; raises UserError like ``actor.policy``."""
        return actor.policy(self.members, self.actor, seed, candidates)
