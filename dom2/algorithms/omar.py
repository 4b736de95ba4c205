"""OMAR: MA-CQL whose actor also regresses on a better action, found by search (Pan et al. 2022).

    critics  those of MA-CQL
    a*       the best by Q_1(o, .) of pi(o) and the final actions of a zeroth-order search
    actor    coe mean (pi(o) - a*)^2 + (1 - coe) [kappa mean z(o)^2 - mean Q_1(o, pi(o))],  pi = tanh z

The search keeps a Gaussian per observation, at first N(0, 2^2). A round draws actions, clips them to [-1, 1]
and rates them. The mean moves to their softmax-weighted mean and the variance to their mean square about it
(particle environments), or both to those of the ``elites`` best, which stay in the pool (HalfCheetah).

Differences from OMAR's code: those of MA-CQL, and
1. The search's standard deviation has a floor of 1e-3: samples of a confident search would be all alike.
2. The penalty on the action's size has the weight 1 - coe, like the Q term that it counteracts. Otherwise it
   would pull every action towards zero, since the regression is a hundred times smaller.

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another. All noise of seed s comes from generator s.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dom2 import actor, config
from dom2.critic import conservative_penalty, td_loss, td_target
from dom2.members import Members, Metrics
from dom2.networks import TwinCritics
from dom2_policies.policy import Actor
from dom2_policies.stacked import polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of OMAR; the defaults are the ``compact`` preset."""

    alpha: float = 1.0
    """Weight of the conservative term in the critic loss; 0 is independent TD3."""
    n_uniform: int = 10
    """Uniform actions per observation in the conservative term."""
    n_policy: int = 0
    """Noisy actions of the actor at o, and as many at o', in the conservative term."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on those actions."""
    coe: float = 0.9
    """Weight of the regression on the action found; Q has the weight 1 - coe. 0 is MA-CQL."""
    iterations: int = 3
    """Rounds of the search."""
    samples: int = 10
    """Actions drawn in each round."""
    elites: int = 0
    """Best actions to which the next Gaussian is fitted; 0 weights all of a round by a softmax of Q."""
    search_std: float = 2.0
    """Standard deviation in the first round."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update."""
    lr: float = 1e-2
    """Adam's step size, actor and critics."""
    action_penalty: float = 0.1
    """kappa, weight relative to Q of the mean square of the actor's output before its tanh."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        config.above_zero(
            self, "rho", "lr", "n_uniform", "policy_noise", "grad_clip", "iterations", "samples"
        )
        config.not_negative(self, "alpha", "n_policy", "action_penalty", "search_std")
        if self.elites and min(self.elites, self.samples) < 2:  # their spread becomes the next round's
            found = f"elites {self.elites}, samples {self.samples}"
            raise ValueError(f"expected elites of 0 (none), or 2 or more of as many samples, found {found}")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "coe", "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"actor_widths": (256, 256), "critic_widths": (256, 256), "lr": 3e-4, "rho": 0.005},
}


class OMAR:
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
        """``Learner.phase``: every update runs the same program."""
        return 0

    def update(self, batch: Batch) -> Metrics:
        """Take one step of critics, actor and targets; metrics are tensors [M], on the device."""
        c = self.config
        loss, critic_metrics = self.critic_loss(batch)
        critic_norm = self.members.descend("critics", loss, c.grad_clip)
        loss, actor_metrics = self.actor_loss(batch)
        actor_norm = self.members.descend("actor", loss, c.grad_clip)
        polyak_(self.target_critics, self.critics, c.rho)
        polyak_(self.target_actor, self.actor, c.rho)
        self.members.updates += 1
        norms = {"critic/grad_norm": critic_norm.view(-1, 2).amax(dim=1), "actor/grad_norm": actor_norm}
        return critic_metrics | actor_metrics | norms

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared TD error and the conservative term, a mean for each critic, summed over all of them."""
        with torch.no_grad():
            next_actions = self.target_actor(batch.next_obs).unsqueeze(1)
            next_q = self.target_critics(batch.next_obs, next_actions)[:, :, 0]
            target = td_target(batch.rewards, batch.terminated, next_q, self.config.gamma)
        others, log_density = self.other_actions(batch)
        q = self.critics(batch.obs, torch.cat([batch.actions.unsqueeze(1), others], dim=1))
        td = td_loss(q[:, :, 0], target)
        gap = conservative_penalty(q[:, :, 1:] - log_density, q[:, :, 0], log_density=0.0)
        metrics = {"critic/td": td, "critic/gap": gap, "critic/q_data": q[:, :, 0].mean(dim=-1)}
        return (td + self.config.alpha * gap).sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    @torch.no_grad()
    def other_actions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """a~ [M, K, B, A] and log p(a~) [M, 1, K, B]: uniform actions, then the actor's."""
        c = self.config
        actions = [self.members.uniform(batch.actions, c.n_uniform)]
        log_density = [torch.full_like(actions[0][..., 0], -self.spec.act_dim * math.log(2.0))]
        for obs in (batch.obs, batch.next_obs) if c.n_policy else ():
            mean = self.actor(obs).unsqueeze(1).expand(-1, c.n_policy, -1, -1)
            noise = self.members.normal(mean)
            actions.append((mean + c.policy_noise * noise).clamp_(-1.0, 1.0))
            scale = math.log(c.policy_noise * math.sqrt(2.0 * math.pi))
            log_density.append((-0.5 * noise.square() - scale).sum(dim=-1))
        return torch.cat(actions, dim=1), torch.cat(log_density, dim=1).unsqueeze(1)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Regression on the action found, minus Q; a mean for each member, summed over members."""
        c, raw = self.config, self.actor.mlp(batch.obs)
        actions = raw.tanh()
        q = self.critics.first(batch.obs, actions.unsqueeze(1))[:, 0].mean(dim=-1)
        size = raw.square().mean(dim=(1, 2))
        loss = (1.0 - c.coe) * (c.action_penalty * size - q)
        if c.coe == 0.0:  # no search, no draws: MA-CQL
            return loss.sum(), {"actor/q": q.detach()}
        found, q_found = self.search(batch.obs, actions.detach())
        distance = (actions - found).square().mean(dim=(1, 2))
        metrics = {"actor/q": q.detach(), "actor/q_found": q_found, "actor/distance": distance.detach()}
        return (loss + c.coe * distance).sum(), metrics

    @torch.no_grad()
    def search(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """a* [M, B, A] and its Q_1 [M], given the actor's actions [M, B, A]."""
        c = self.config
        mean = torch.zeros_like(actions).unsqueeze(1)
        std = torch.full_like(mean, c.search_std)
        kept = mean[:, :0]  # elites of earlier rounds
        for _ in range(c.iterations):
            noise = self.members.normal(mean.expand(-1, c.samples, -1, -1))
            pool = torch.cat([(mean + std * noise).clamp_(-1.0, 1.0), kept], dim=1)
            q = self.critics.first(obs, pool)  # [M, K, B]
            if c.elites:
                best = q.topk(min(c.elites, pool.shape[1]), dim=1).indices.unsqueeze(-1)
                kept = pool.take_along_dim(best, dim=1)
                mean, std = kept.mean(dim=1, keepdim=True), kept.std(dim=1, keepdim=True)
            else:
                mean = (q.softmax(dim=1).unsqueeze(-1) * pool).sum(dim=1, keepdim=True)
                std = (pool - mean).square().mean(dim=1, keepdim=True).sqrt()
            std = std.clamp_min(1e-3)
        pool = torch.cat([pool, actions.unsqueeze(1)], dim=1)
        q = torch.cat([q, self.critics.first(obs, actions.unsqueeze(1))], dim=1)
        best = q.argmax(dim=1, keepdim=True)
        found = pool.take_along_dim(best.unsqueeze(-1), dim=1).squeeze(1)
        return found, q.take_along_dim(best, dim=1).mean(dim=(1, 2))

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents; raises UserError like ``actor.policy``."""
        return actor.policy(self.members, self.actor, seed, candidates)
