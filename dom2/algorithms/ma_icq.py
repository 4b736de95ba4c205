"""MA-ICQ: implicit constraint Q-learning (Yang et al. 2021), independently for each agent.

The constraint that the policy stay within the data becomes weights on the data's own actions. Among all other
actions critics rate a_pi alone, as the baseline of the advantage:

    critics  sum_k mean (y - Q_k(o, a))^2,  y = r + gamma w' min_k Qbar_k(o', a'),
             w' = B softmax_B(Abar(o', a') / beta_target),  a' the action that the data took next
    actor    -mean w log pi(a | o),  w = B softmax_B(A(o, a) / beta)
             A(o, a) = min_k Q_k(o, a) - min_k Q_k(o, a_pi), Abar the same of the target critics

Both softmaxes are over the minibatch, as in the authors' code: their normaliser is the paper's Z(o) averaged
over observations. Differences from the paper:
1. Independent critics; the paper's mixer of the agents' values needs one team reward.
2. Gaussian policies for continuous actions, a_pi one action of the agent's own policy; two critics.
3. One-step targets instead of TD(lambda); target critics are updated softly instead of every 600 updates.
4. A is divided by its mean magnitude over the minibatch before it is divided by beta, since rewards here are
   not rescaled (``normalise false`` is the paper's). beta is 1 then; 0.1 leaves a few transitions all weight.
5. The authors weight targets by Qbar itself instead of Abar. A softmax over the minibatch then favours good
   states, not only good actions, and where values are in the hundreds this outweighs the discount: on tag the
   mean of Q was 41,652 after 2,500 updates, where returns are 122.
6. The last step before a time limit has no a' and is left out of the critic loss.

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another. The agents of a seed have the same steps in a minibatch.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dom2 import actor, config
from dom2.gaussian import GaussianActor
from dom2.members import Members, Metrics
from dom2.networks import TwinCritics
from dom2_policies.policy import Actor
from dom2_policies.stacked import polyak_
from dom2data.spec import Batch, EnvSpec
from dom2data.windows import Windows


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of MA-ICQ; the defaults are the ``compact`` preset."""

    horizon: ClassVar[int] = 2  # a step and the next

    beta: float = 1.0
    """Temperature of the advantage in the actor's weights; a large one is behaviour cloning."""
    beta_target: float = 1000.0
    """Temperature of the advantage in the critics' targets; a large one gives Q of the data's policy."""
    normalise: bool = True
    """Divide the advantage by its mean magnitude over the minibatch."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the target critics' soft update."""
    lr: float = 5e-3
    """Adam's step size, actor and critics."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        config.above_zero(self, "beta", "beta_target", "rho", "lr", "grad_clip")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"actor_widths": (256, 256), "critic_widths": (256, 256), "lr": 3e-4, "rho": 0.005},
}


class Pairs(NamedTuple):
    """Transitions and the actions that followed them, for each member."""

    batch: Batch
    next_actions: Tensor  # [M, B, A]
    went_on: Tensor  # [M, B] float, 0 where the episode ended and no action followed


class MAICQ:
    """All members' actors, critics and target critics."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "windows"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        shape = (members.n_seeds * spec.n_agents, spec.obs_dim, spec.act_dim)
        self.actor = members.learned("actor", GaussianActor(members, spec, config.actor_widths), config.lr)
        critics = TwinCritics(*shape, members.generators, config.critic_widths)
        self.critics = members.learned("critics", critics, config.lr)
        self.target_critics = members.fixed("target_critics", critics)

    def phase(self) -> Hashable:
        """``Learner.phase``: every update runs the same program."""
        return 0

    def update(self, windows: Windows) -> Metrics:
        """Take one step of critics, actors and targets; metrics are tensors [M], on the device."""
        pairs = transitions(windows)
        loss, critic_metrics = self.critic_loss(pairs)
        critic_norm = self.members.descend("critics", loss, self.config.grad_clip)
        loss, actor_metrics = self.actor_loss(pairs.batch)
        actor_norm = self.members.descend("actor", loss, self.config.grad_clip)
        polyak_(self.target_critics, self.critics, self.config.rho)
        self.members.updates += 1
        norms = {"critic/grad_norm": critic_norm.view(-1, 2).amax(dim=1), "actor/grad_norm": actor_norm}
        return critic_metrics | actor_metrics | norms

    def critic_loss(self, pairs: Pairs) -> tuple[Tensor, Metrics]:
        """Squared error to the weighted target, a mean for each critic of each member, summed over all."""
        batch, c = pairs.batch, self.config
        known = torch.maximum(pairs.went_on, batch.terminated)  # 0 where a time limit ended the episode
        share = known / known.sum(dim=1, keepdim=True).clamp_min(1.0)
        with torch.no_grad():
            next_q = self.target_critics(batch.next_obs, pairs.next_actions.unsqueeze(1))[:, :, 0].amin(dim=1)
            own = self.actor.sample(batch.next_obs, self.members.normal(batch.actions))
            baseline = self.target_critics(batch.next_obs, own.unsqueeze(1))[:, :, 0].amin(dim=1)
            logits = ((next_q - baseline) / c.beta_target).masked_fill(pairs.went_on == 0, -1e9)
            weight = logits.softmax(dim=1) * pairs.went_on.sum(dim=1, keepdim=True)
            target = batch.rewards + c.gamma * (1.0 - batch.terminated) * weight * next_q
        q = self.critics(batch.obs, batch.actions.unsqueeze(1))[:, :, 0]
        td = ((q - target.unsqueeze(1)).square() * share.unsqueeze(1)).sum(dim=-1)
        metrics = {"critic/td": td, "critic/q_data": q.mean(dim=-1)}
        return td.sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted log-likelihood of the data's actions, a mean for each member, summed over members."""
        with torch.no_grad():
            own = self.actor.sample(batch.obs, self.members.normal(batch.actions))
            q = self.critics(batch.obs, torch.stack([batch.actions, own], dim=1)).amin(dim=1)
            advantage = q[:, 0] - q[:, 1]
            if self.config.normalise:
                advantage = advantage / advantage.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
            weight = (advantage / self.config.beta).softmax(dim=1) * advantage.shape[1]
        loss = -(weight * self.actor.log_prob(batch.obs, batch.actions)).mean(dim=1)
        bc = (self.actor.mean(batch.obs) - batch.actions).square().mean(dim=(1, 2))
        metrics = {"actor/loss": loss, "actor/bc": bc, "actor/max_weight": weight.amax(dim=1)}
        return loss.sum(), {k: v.detach() for k, v in metrics.items()}

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents, acting by their means; raises like ``actor.policy``."""
        return actor.policy(self.members, self.actor.mean, seed, candidates)


def transitions(windows: Windows) -> Pairs:
    """The first step of two-step windows and the actions of the second, for each member."""

    def of(values: Tensor, step: int) -> Tensor:
        return values[:, :, step].transpose(1, 2).flatten(0, 1)  # [S, B, H, N, ...] -> [M, B, ...]

    n = windows.obs.shape[3]
    ended = windows.terminated[:, :, 0].repeat_interleave(n, dim=0)
    went_on = windows.taken[:, :, 1].repeat_interleave(n, dim=0)
    batch = Batch(
        obs=of(windows.obs, 0),
        actions=of(windows.actions, 0),
        rewards=of(windows.rewards, 0),
        next_obs=of(windows.obs, 1),
        terminated=ended,
    )
    return Pairs(batch, of(windows.actions, 1), went_on)
