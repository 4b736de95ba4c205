"""MA-CQL: conservative Q-learning (Kumar et al. 2020) on TD3, independently for each agent.

The baseline of that name in OMAR (Pan et al. 2022):

    critics  sum_k mean (y - Q_k(o, a))^2 + alpha mean [log mean exp (Q_k(o, a~) - log p(a~)) - Q_k(o, a)],
             y = r + gamma min_k Qbar_k(o', pibar(o'))
    actor    -mean Q_1(o, pi(o)) + kappa mean z(o)^2,  pi = tanh z

a~ are uniform actions and, if ``n_policy`` is set, also noisy actions of pi(o) and of pi(o'); Q rates all of
them at o. Differences from OMAR's code:
1. log p of a noisy action is the logarithm of its Gaussian density; the code subtracts the density itself.
2. No batch normalisation of the input: the code's twin critics share one, which its targets never follow.
3. Targets bootstrap where a time limit ends the episode; the code treats HalfCheetah's limit as terminal.
4. The size of the action is penalised before the tanh, 0.1 mean z^2, where the code has 1e-3 mean pi^2: the
   first critics saturate the tanh, and there neither Q nor the code's penalty has a gradient.
5. There is a factor 1 / K inside the logarithm, which changes the value but not the gradient. Gradients are
   clipped per network, also for each of the twin critics.

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
    """Hyper-parameters of MA-CQL; the defaults are the ``compact`` preset."""

    alpha: float = 1.0
    """Weight of the conservative term in the critic loss; 0 is independent TD3."""
    n_uniform: int = 10
    """Uniform actions per observation in the conservative term."""
    n_policy: int = 0
    """Noisy actions of the actor at o, and as many at o', in the conservative term."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on those actions."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update."""
    lr: float = 1e-2
    """Adam's step size, actor and critics."""
    action_penalty: float = 0.1
    """kappa, weight in the actor loss of the mean square of the actor's output before its tanh."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        config.above_zero(self, "rho", "lr", "n_uniform", "policy_noise", "grad_clip")
        config.not_negative(self, "alpha", "n_policy", "action_penalty")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {"actor_widths": (256, 256), "critic_widths": (256, 256), "lr": 3e-4, "rho": 0.005},
}


class MACQL:
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
        """Penalty on outputs before the tanh, minus Q of the actor's action; mean per member, summed."""
        raw = self.actor.mlp(batch.obs)
        q = self.critics.first(batch.obs, raw.tanh().unsqueeze(1))[:, 0].mean(dim=-1)
        size = raw.square().mean(dim=(1, 2))
        return (self.config.action_penalty * size - q).sum(), {"actor/q": q.detach()}

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents; raises UserError like ``actor.policy``."""
        return actor.policy(self.members, self.actor, seed, candidates)
