"""OMIGA: implicit global-to-local value regularisation (Wang et al. 2023).

The team's value is a weighted sum of the agents', whose weights depend on the state s = (o_1, ..., o_N):

    Q_tot(s, a) = sum_i w_i(s) Q_i(o_i, a_i) + b(s),   V_tot(s) = sum_i w_i(s) V_i(o_i) + b(s),   w_i >= 0

    critics  mean (r + gamma Vbar_tot(s') - Q_tot(s, a))^2
    value    mean exp(z_i) + wbar_i V_i(o_i) / alpha,  z_i = wbar_i (Qbar_i(o_i, a_i) - V_i(o_i)) / alpha
    actor    -mean exp(z_i) log pi_i(a_i | o_i)

Regularising the whole team towards the data thus becomes regularising each agent, weighted by how much the
team's value depends on it. Differences from the authors' code:
1. Every agent has its own networks, instead of one for all with the agent's number as an input.
2. z is not clipped in the value loss, since V could not rise any further once z had reached the limit. As in
   the code, the largest z of the minibatch is factored out of the exponential. In the actor loss exp(z) is at
   most ``max_weight``.
3. Gaussian policies with tanh means instead of Gaussians squashed by tanh: those have no finite density at
   the ends of the action range, where many of the data's actions lie.
4. The state is the agents' observations side by side. Gradients are clipped per network.

Losses of critics and mixers are means per seed, the others per member, all summed, so seeds do not affect one
another. The agents of a seed have the same transitions.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dom2 import actor, config, joint
from dom2.gaussian import GaussianActor
from dom2.members import Members, Metrics
from dom2_policies.policy import Actor
from dom2_policies.stacked import StackedMLP, polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of OMIGA; the defaults are the ``compact`` preset."""

    alpha: float = 10.0
    """Strength of the regularisation towards the data; a large one is behaviour cloning."""
    max_weight: float = 100.0
    """Largest weight of a transition in the actor loss."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update."""
    lr: float = 5e-3
    """Adam's step size, of all networks."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic and value network."""
    mixer_width: int = 64
    """Hidden width of the networks of w and b."""

    def __post_init__(self) -> None:
        config.above_zero(self, "alpha", "max_weight", "rho", "lr", "grad_clip", "mixer_width")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"actor_widths": (256, 256), "critic_widths": (256, 256), "lr": 5e-4, "rho": 0.005},
}


class OMIGA:
    """All agents' actors, values and critics, all seeds' mixers, and targets."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "joint"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        m, generators = members.n_seeds * spec.n_agents, members.generators
        self.actor = members.learned("actor", GaussianActor(members, spec, config.actor_widths), config.lr)
        sizes = (spec.obs_dim, *config.critic_widths, 1)
        value, mixer = StackedMLP(m, sizes, generators), Mixer(members, spec, config.mixer_width)
        critics = StackedMLP(m, (spec.obs_dim + spec.act_dim, *config.critic_widths, 1), generators)
        self.value = members.learned("value", value, config.lr)
        self.critics = members.learned("critics", critics, config.lr)
        self.mixer = members.learned("mixer", mixer, config.lr)
        self.target_value = members.fixed("target_value", value)
        self.target_critics = members.fixed("target_critics", critics)
        self.target_mixer = members.fixed("target_mixer", mixer)

    def phase(self) -> Hashable:
        """``Learner.phase``: every update runs the same program."""
        return 0

    def update(self, batch: Batch) -> Metrics:
        """Take one step of critics and mixers, values, actors and targets.

        Metrics are tensors on the device: [S] of critics and mixers, [M] of the others.
        """
        c, members = self.config, self.members
        loss, metrics = self.critic_loss(batch)
        metrics["critic/grad_norm"] = members.descend("critics", loss, c.grad_clip, again=True)
        metrics["mixer/grad_norm"] = members.descend("mixer", loss, c.grad_clip)
        loss, found = self.value_loss(batch)
        metrics |= found | {"value/grad_norm": members.descend("value", loss, c.grad_clip)}
        loss, found = self.actor_loss(batch)
        metrics |= found | {"actor/grad_norm": members.descend("actor", loss, c.grad_clip)}
        for target, online in (
            (self.target_value, self.value),
            (self.target_critics, self.critics),
            (self.target_mixer, self.mixer),
        ):
            polyak_(target, online, c.rho)
        members.updates += 1
        return metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared TD error of the team's value, a mean for each seed, summed over seeds."""
        seeds = self.members.n_seeds
        rewards, terminated = joint.team(batch, self.spec)
        with torch.no_grad():
            weight, bias = self.target_mixer(joint.side_by_side(batch.next_obs, seeds))
            next_value = (weight * self.of_team(self.target_value(batch.next_obs))).sum(dim=1) + bias
            target = rewards + self.config.gamma * (1.0 - terminated) * next_value
        weight, bias = self.mixer(joint.side_by_side(batch.obs, seeds))
        q = self.critics(torch.cat([batch.obs, batch.actions], dim=-1))
        q_tot = (weight * self.of_team(q)).sum(dim=1) + bias
        td = (q_tot - target).square().mean(dim=1)
        metrics = {
            "critic/td": td,
            "critic/q_tot": q_tot.mean(dim=1),
            "mixer/weight": weight.mean(dim=(1, 2)),
        }
        return td.sum(), {k: v.detach() for k, v in metrics.items()}

    def value_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """exp(z) + w V / alpha, scaled by exp(-max z); a mean for each member, summed over members."""
        z, share = self.regularised_advantage(batch)
        top = z.detach().amax(dim=1, keepdim=True).clamp_min(-1.0)
        loss = ((z - top).exp() + (-top).exp() * share).mean(dim=1)
        metrics = {"value/loss": loss, "value/exp_z": z.clamp_max(10.0).exp().mean(dim=1)}
        return loss.sum(), {k: v.detach() for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted log-likelihood of the data's actions, a mean for each member, summed over members."""
        with torch.no_grad():
            weight = self.regularised_advantage(batch)[0].exp().clamp_max(self.config.max_weight)
        loss = -(weight * self.actor.log_prob(batch.obs, batch.actions)).mean(dim=1)
        bc = (self.actor.mean(batch.obs) - batch.actions).square().mean(dim=(1, 2))
        metrics = {"actor/loss": loss, "actor/bc": bc, "actor/weight": weight.mean(dim=1)}
        return loss.sum(), {k: v.detach() for k, v in metrics.items()}

    def regularised_advantage(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """z and w V / alpha, both [M, B]; gradients flow through V only."""
        with torch.no_grad():
            weight, _ = self.target_mixer(joint.side_by_side(batch.obs, self.members.n_seeds))
            weight = weight.flatten(0, 1) / self.config.alpha
            q = self.target_critics(torch.cat([batch.obs, batch.actions], dim=-1)).squeeze(-1)
        value = self.value(batch.obs).squeeze(-1)
        return weight * (q - value), weight * value

    def of_team(self, values: Tensor) -> Tensor:
        """[M, B, 1] -> [S, N, B]"""
        return values.squeeze(-1).unflatten(0, (self.members.n_seeds, self.spec.n_agents))

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents, acting by their means; raises like ``actor.policy``."""
        return actor.policy(self.members, self.actor.mean, seed, candidates)


class Mixer(nn.Module):
    """w and b of the team's value, for each seed."""

    def __init__(self, members: Members, spec: EnvSpec, width: int):
        super().__init__()
        state, generators = spec.n_agents * spec.obs_dim, members.generators
        self.weight = StackedMLP(members.n_seeds, (state, width, spec.n_agents), generators)
        self.bias = StackedMLP(members.n_seeds, (state, width, 1), generators)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """state [S, B, N O] -> w [S, N, B] >= 0, b [S, B]."""
        return self.weight(state).abs().transpose(1, 2).contiguous(), self.bias(state).squeeze(-1)
