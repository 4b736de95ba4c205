"""CFCQL: counterfactual conservative Q-learning (Shao et al. 2023), centralised critics, own actors.

Two critics of each seed see the observations s and the actions a of all N agents. With a^i(x) the joint
action a with agent i's replaced by x, and a'^i = pibar_i(o'_i) + e, e ~ N(0, sigma^2),

    critics  sum_k mean (y - Q_k(s, a))^2
             + alpha sum_i 1/N mean [log mean exp (Q_k(s, a^i(a~_i)) - log p(a~_i)) - Q_k(s, a)],
             y = r + gamma min_k Qbar_k(s', a')
    actors   -mean Q_1(s, a^i(pi_i(o_i))) + kappa mean z_i(o_i)^2,  pi = tanh z

One agent at a time deviates from the data, in the penalty and in the improvement. r is the team's reward.

Differences from the authors' paper and code:
1. Each agent's penalty has the weight 1/N. The paper also offers a softmax of each policy's divergence from
   the behaviour policy, for which its code trains a variational autoencoder.
2. The state is all agents' observations, also for HalfCheetah, where the code takes the simulator's state.
3. With individual rewards (spread) the team's reward is their mean; the code takes the first agent's.
4. alpha is MA-CQL's, eight times the authors' on tag-medium. ``compact`` trains the actors at every update,
   with a step size of 0.01 (theirs: 0.001 in tag and world).
5. As in MA-CQL, there is no batch normalisation, the size of the action is penalised before the tanh, and
   targets bootstrap where a time limit ends the episode.
6. The penalty's actions are always uniform; in MuJoCo the code adds as many of the policy's, at o and o'.

Critics are stacked over seeds and actors over seeds x agents. Losses are means per member, summed, so seeds
do not affect one another. All noise of seed s comes from generator s.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dom2 import actor, config, joint
from dom2.critic import conservative_penalty, td_loss, td_target
from dom2.members import Members, Metrics
from dom2.networks import TwinCritics
from dom2_policies.policy import Actor
from dom2_policies.stacked import polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of CFCQL; the defaults are the ``compact`` preset."""

    alpha: float = 1.0
    """Weight of the conservative term in the critic loss; 0 is MADDPG with twin critics."""
    n_uniform: int = 10
    """Uniform actions of each agent per observation in the conservative term."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update."""
    lr: float = 1e-2
    """Adam's step size, actor and critics."""
    smoothing: float = 0.05
    """sigma, standard deviation of the noise on the target's actions."""
    policy_delay: int = 1
    """Critic updates per update of the actors and of all targets."""
    action_penalty: float = 0.1
    """kappa, weight in the actor loss of the mean square of the actor's output before its tanh."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""

    def __post_init__(self) -> None:
        config.above_zero(self, "rho", "lr", "n_uniform", "policy_delay", "grad_clip")
        config.not_negative(self, "alpha", "smoothing", "action_penalty")
        config.sizes(self, "actor_widths", "critic_widths")
        config.within_unit(self, "gamma", "rho")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {
        "actor_widths": (256, 256),
        "critic_widths": (256, 256),
        "lr": 3e-4,
        "rho": 0.005,
        "policy_delay": 5,
    },
}


class CFCQL:
    """All agents' actors, all seeds' critics, and targets."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "joint"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        shape = (members.n_seeds, spec.n_agents * spec.obs_dim, spec.n_agents * spec.act_dim)
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
        """Take one step of the critics and, every ``policy_delay`` updates, of the actors and all targets.

        Metrics are tensors on the device: [S] of the critics and, if the actors were updated, [M] of those.
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
        """Squared TD error and the agents' penalties, a mean for each critic, summed over all of them."""
        c, seeds, n = self.config, self.members.n_seeds, self.spec.n_agents
        rewards, terminated = joint.team(batch, self.spec)
        with torch.no_grad():
            noise = c.smoothing * self.members.normal(batch.actions)
            next_actions = (self.target_actor(batch.next_obs) + noise).clamp_(-1.0, 1.0)
            next_state, next_joint = (joint.side_by_side(x, seeds) for x in (batch.next_obs, next_actions))
            next_q = self.target_critics(next_state, next_joint.unsqueeze(1))[:, :, 0]
            target = td_target(rewards, terminated, next_q, c.gamma)
        uniform = self.members.uniform(batch.actions, c.n_uniform).unflatten(0, (seeds, n))
        deviating = joint.counterfactual(batch.actions.unflatten(0, (seeds, n)), uniform)
        data = joint.side_by_side(batch.actions, seeds).unsqueeze(1)
        q = self.critics(joint.side_by_side(batch.obs, seeds), torch.cat([data, deviating], dim=1))
        q_data, q_deviating = q[:, :, 0], q[:, :, 1:].unflatten(2, (n, c.n_uniform))
        td, log_density = td_loss(q_data, target), -self.spec.act_dim * math.log(2.0)
        gaps = [conservative_penalty(of_agent, q_data, log_density) for of_agent in q_deviating.unbind(dim=2)]
        gap = torch.stack(gaps).mean(dim=0)
        metrics = {"critic/td": td, "critic/gap": gap, "critic/q_data": q_data.mean(dim=-1)}
        return (td + c.alpha * gap).sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Minus Q with one agent's own action at a time, plus a penalty on its output before the tanh."""
        lead = (self.members.n_seeds, self.spec.n_agents)
        raw = self.actor.mlp(batch.obs)
        actions = raw.tanh()
        deviating = joint.counterfactual(
            batch.actions.unflatten(0, lead), actions.unflatten(0, lead).unsqueeze(2)
        )
        state = joint.side_by_side(batch.obs, self.members.n_seeds)
        q = self.critics.first(state, deviating).mean(dim=-1).flatten()  # [S, N, B] -> [M]
        size = raw.square().mean(dim=(1, 2))
        return (self.config.action_penalty * size - q).sum(), {"actor/q": q.detach()}

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents; raises UserError like ``actor.policy``."""
        return actor.policy(self.members, self.actor, seed, candidates)
