"""MA-IQL: implicit Q-learning (Kostrikov, Nair and Levine 2022), independently for each agent.

Critics are only evaluated at actions from the data:

    Eq. (5)  value    mean L_tau(min_k Qbar_k(o, a) - V(o)),  L_tau(u) = |tau - 1(u < 0)| u^2
    Eq. (6)  critics  sum_k mean (r + gamma V(o') - Q_k(o, a))^2
    Eq. (7)  actor    -mean exp(beta A) log pi(a | o),  A = min_k Qbar_k(o, a) - V(o)

Differences from the single-agent paper:
1. One actor, one value network and two critics for each agent, which see only its own observation.
2. A is divided by its mean magnitude over the minibatch, since rewards here are not rescaled and differ by
   orders of magnitude between tasks; ``normalise false`` is the paper's.
3. The standard deviation of the Gaussian policy does not depend on the observation (as in the authors'
   code); ``policy deterministic`` replaces -log pi by the squared error.
4. No cosine decay of the step size; gradients are clipped per network.

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dom2 import actor, config
from dom2.critic import td_loss
from dom2.gaussian import GaussianActor
from dom2.members import Members, Metrics
from dom2.networks import TwinCritics
from dom2_policies.policy import Actor
from dom2_policies.stacked import StackedMLP, polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of MA-IQL; the defaults are the ``compact`` preset."""

    tau: float = 0.7
    """V is this expectile of Q over the data's actions; 0.5 is the mean, near 1 the maximum."""
    beta: float = 3.0
    """Inverse temperature of the advantage in the actor's weights; 0 is behaviour cloning."""
    max_weight: float = 100.0
    """Largest weight of a transition in the actor loss."""
    normalise: bool = True
    """Divide the advantage by its mean magnitude over the minibatch."""
    policy: Literal["gaussian", "deterministic"] = "gaussian"
    """Likelihood of the actor loss: a Gaussian's, or minus the squared error."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the target critics' soft update."""
    lr: float = 5e-3
    """Adam's step size, of all networks."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic and value network."""

    def __post_init__(self) -> None:
        config.above_zero(self, "tau", "max_weight", "rho", "lr", "grad_clip")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "tau", "gamma", "rho")
        config.not_negative(self, "beta")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"actor_widths": (256, 256), "critic_widths": (256, 256), "lr": 3e-4, "rho": 0.005},
}


class MAIQL:
    """All members' actors, values, critics and target critics."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "independent"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        m = members.n_seeds * spec.n_agents
        self.actor: GaussianActor | Actor
        if config.policy == "gaussian":
            self.actor = GaussianActor(members, spec, config.actor_widths)
            self.mean = self.actor.mean
        else:
            self.actor = self.mean = actor.tanh_actors(members, spec, config.actor_widths)
        members.learned("actor", self.actor, config.lr)
        self.value = members.learned(
            "value", StackedMLP(m, (spec.obs_dim, *config.critic_widths, 1), members.generators), config.lr
        )
        critics = TwinCritics(m, spec.obs_dim, spec.act_dim, members.generators, config.critic_widths)
        self.critics = members.learned("critics", critics, config.lr)
        self.target_critics = members.fixed("target_critics", critics)

    def phase(self) -> Hashable:
        """``Learner.phase``: every update runs the same program."""
        return 0

    def update(self, batch: Batch) -> Metrics:
        """Take one step of values, critics, targets and actors (Algorithm 1); metrics are tensors [M]."""
        c = self.config
        loss, found = self.value_loss(batch)
        metrics = found | {"value/grad_norm": self.members.descend("value", loss, c.grad_clip)}
        loss, found = self.critic_loss(batch)
        norm = self.members.descend("critics", loss, c.grad_clip)
        metrics |= found | {"critic/grad_norm": norm.view(-1, 2).amax(dim=1)}
        polyak_(self.target_critics, self.critics, c.rho)
        loss, found = self.actor_loss(batch)
        metrics |= found | {"actor/grad_norm": self.members.descend("actor", loss, c.grad_clip)}
        self.members.updates += 1
        return metrics

    def value_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (5), a mean for each member, summed over members."""
        advantage, value = self.advantage(batch)
        weight = (self.config.tau - (advantage < 0).float()).abs()
        loss = (weight * advantage.square()).mean(dim=1)
        metrics = {"value/loss": loss, "value/v_data": value.mean(dim=1)}
        return loss.sum(), {k: v.detach() for k, v in metrics.items()}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (6), a mean for each critic of each member, summed over all of them."""
        with torch.no_grad():
            next_value = self.value(batch.next_obs).squeeze(-1)
            target = batch.rewards + self.config.gamma * (1.0 - batch.terminated) * next_value
        q = self.critics(batch.obs, batch.actions.unsqueeze(1))[:, :, 0]
        td = td_loss(q, target)
        metrics = {"critic/td": td, "critic/q_data": q.mean(dim=-1)}
        return td.sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (7), a mean for each member, summed over members."""
        c = self.config
        with torch.no_grad():
            advantage, _ = self.advantage(batch)
            if c.normalise:
                advantage = advantage / advantage.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
            weight = (c.beta * advantage).exp().clamp_max(c.max_weight)
        cost = bc = (self.mean(batch.obs) - batch.actions).square().mean(dim=2)
        if isinstance(self.actor, GaussianActor):
            cost = -self.actor.log_prob(batch.obs, batch.actions)
        loss = (weight * cost).mean(dim=1)
        metrics = {"actor/loss": loss, "actor/bc": bc.mean(dim=1), "actor/weight": weight.mean(dim=1)}
        return loss.sum(), {k: v.detach() for k, v in metrics.items()}

    def advantage(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A = min_k Qbar_k(o, a) - V(o) and V(o), both [M, B]; gradients flow through V only."""
        with torch.no_grad():
            q = self.target_critics(batch.obs, batch.actions.unsqueeze(1))[:, :, 0].amin(dim=1)
        value = self.value(batch.obs).squeeze(-1)
        return q - value, value

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents, acting by their means; raises like ``actor.policy``."""
        return actor.policy(self.members, self.mean, seed, candidates)
