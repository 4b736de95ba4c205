"""Online independent TD3 over a stack of agents (Fujimoto et al. 2018), the source of behaviour policies.

Every agent has its own actor, twin critics and minibatch and sees its own observation only; the stack
trains them together. With ``joint_critic`` one pair of critics reads what all agents see and do; the actors
stay as they are (centralised training, decentralised execution; Lowe et al. 2017). Differences from the
paper: gradient norms are clipped per agent, and updates come in a group after each wave of episodes (as many
as ``steps_per_update`` allows) instead of one a step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dom2_policies.policy import Actor
from dom2_policies.stacked import ALL, StackedMLP, polyak_

_EPISODES = ("observations", "actions", "rewards", "lengths", "terminated")
_STATEFUL = ("actor", "critic", "target_actor", "target_critic", "actor_optimizer", "critic_optimizer")


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the values train the particle tasks in minutes on one core."""

    hidden: int = 64
    """Width of the two hidden layers of actors and critics."""
    lr: float = 3e-3
    """Adam's learning rate, actors and critics."""
    batch_size: int = 1024
    """Transitions per agent and update."""
    gamma: float = 0.95
    """Discount."""
    rho: float = 0.01
    """Step of the target networks towards the online ones, per update."""
    smoothing: float = 0.2
    """Standard deviation of the noise on target actions."""
    smoothing_clip: float = 0.5
    """Bound of that noise."""
    policy_delay: int = 2
    """Critic updates per actor update."""
    grad_clip: float = 0.5
    """Largest gradient norm of one agent's network."""
    steps_per_update: int = 100
    """Environment steps per update."""
    buffer_steps: int = 1_000_000
    """Replay capacity in environment steps."""
    noise_start: float = 0.3
    """Exploration noise at the first step, after the random waves."""
    noise_end: float = 0.1
    """Exploration noise from ``noise_steps`` on."""
    noise_steps: int = 400_000
    """Environment steps over which the noise falls linearly."""
    random_steps: int = 10_000
    """Environment steps of uniform actions before the first update."""
    reward_scale: float = 1.0
    """What rewards are multiplied by before learning."""
    joint_critic: bool = False
    """Whether one pair of critics, reading all observations and actions, serves a team with one reward."""

    def noise(self, steps: int) -> float:
        """Exploration noise after ``steps`` environment steps."""
        return self.noise_start + (self.noise_end - self.noise_start) * min(1.0, steps / self.noise_steps)


class Transitions(NamedTuple):
    """A minibatch per agent."""

    obs: Tensor  # [N, B, O]
    actions: Tensor  # [N, B, A]
    rewards: Tensor  # [N, B]
    next_obs: Tensor  # [N, B, O]
    terminated: Tensor  # [N, B] float, 1 where nothing follows


class ReplayBuffer:
    """Whole episodes of at most T steps, oldest overwritten first.

    ``observations`` [capacity, T+1, N, O], ``actions`` [capacity, T, N, A], ``rewards`` [capacity, T, N];
    of each episode the first ``lengths`` [capacity] steps count.
    """

    def __init__(self, capacity: int, horizon: int, n_agents: int, obs_dim: int, act_dim: int):
        self.observations = np.empty((capacity, horizon + 1, n_agents, obs_dim), np.float32)
        self.actions = np.empty((capacity, horizon, n_agents, act_dim), np.float32)
        self.rewards = np.empty((capacity, horizon, n_agents), np.float32)
        self.lengths = np.zeros(capacity, np.int64)
        self.terminated = np.zeros(capacity, bool)
        self.capacity, self.n_agents, self.added = capacity, n_agents, 0
        self._ends = np.zeros(0, np.int64)  # of the episodes held, in steps

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        lengths: NDArray[Any],
        terminated: NDArray[Any],
    ) -> None:
        """Append E episodes: arrays [E, T+1, N, O], [E, T, N, A], [E, T, N], [E] and [E]."""
        rows = (self.added + np.arange(len(actions))) % self.capacity
        self.observations[rows], self.actions[rows], self.rewards[rows] = observations, actions, rewards
        self.lengths[rows], self.terminated[rows] = lengths, terminated
        self.added += len(actions)
        self._ends = np.cumsum(self.lengths[: len(self)])

    def state_dict(self) -> dict[str, Any]:
        """The episodes held, as tensors, and how many were ever added."""
        held = slice(0, len(self))
        return {"added": self.added} | {k: torch.from_numpy(getattr(self, k)[held]) for k in _EPISODES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.added = state["added"]
        for name in _EPISODES:
            getattr(self, name)[: len(self)] = state[name].numpy()
        self._ends = np.cumsum(self.lengths[: len(self)])

    def sample(
        self, batch_size: int, rng: np.random.Generator, agents: slice = ALL, joint: bool = False
    ) -> Transitions:
        """Uniform transitions of some agents (all by default): each its own, or ``joint``, of one moment."""
        agent = np.arange(self.n_agents)[agents, None]
        flat = rng.integers(self._ends[-1], size=(1 if joint else len(agent), batch_size))
        episode = np.searchsorted(self._ends, flat, side="right")
        left = self._ends[episode] - flat
        step = self.lengths[episode] - left
        take = (episode, step, agent)
        return Transitions(
            torch.from_numpy(self.observations[take]),
            torch.from_numpy(self.actions[take]),
            torch.from_numpy(self.rewards[take]),
            torch.from_numpy(self.observations[episode, step + 1, agent]),
            torch.from_numpy(np.float32(self.terminated[episode] & (left == 1))),
        )


class TD3:
    """N learners. The observations may be wider than what the actors see: critics read all of them."""

    def __init__(
        self, config: Config, n_agents: int, obs_dim: int, act_dim: int, seed: int, actor_obs_dim: int = 0
    ):
        self.config, self.n_agents, self.updates = config, n_agents, 0
        self.actor_obs_dim = actor_obs_dim or obs_dim
        self.generator = torch.Generator().manual_seed(seed)
        hidden = (config.hidden, config.hidden)
        self.actor = Actor((self.actor_obs_dim, *hidden, act_dim), n_agents, [self.generator])
        # All critics are one stack: members 0..C-1 are the first critics, C..2C-1 the second ones.
        self.n_critics, seen = (1, n_agents) if config.joint_critic else (n_agents, 1)
        sizes = (seen * (obs_dim + act_dim), *hidden, 1)
        self.critic = StackedMLP(2 * self.n_critics, sizes, [self.generator])
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), config.lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), config.lr, fused=True)

    def policy(self, noise: float) -> Actor:
        """A copy of what the N agents have learned so far, acting with Gaussian noise."""
        policy = copy.deepcopy(self.actor)
        policy.noise = noise
        return policy

    def update(self, batch: Transitions) -> None:
        """One critic update and, every ``policy_delay``-th time, one actor and target update."""
        step_(self.critic_loss(batch), self.critic, self.critic_optimizer, self.config.grad_clip)
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            step_(self.actor_loss(batch), self.actor, self.actor_optimizer, self.config.grad_clip)
            polyak_(self.target_actor, self.actor, self.config.rho)
            polyak_(self.target_critic, self.critic, self.config.rho)

    def critic_loss(self, batch: Transitions) -> Tensor:
        """Squared error to r + gamma min_k Q'_k(o', a'), a' the smoothed target action."""
        with torch.no_grad():
            noise = torch.randn(batch.actions.shape, generator=self.generator).mul_(self.config.smoothing)
            noise = noise.clamp_(-self.config.smoothing_clip, self.config.smoothing_clip)
            next_actions = (self.target_actor(self._seen(batch.next_obs)) + noise).clamp_(-1.0, 1.0)
            next_q = self._q(self.target_critic, batch.next_obs, next_actions).amin(0)
            rewards = self.config.reward_scale * batch.rewards[: self.n_critics]
            goes_on = 1.0 - batch.terminated[: self.n_critics]
            target = rewards + self.config.gamma * goes_on * next_q
        return (self._q(self.critic, batch.obs, batch.actions) - target).square().mean(-1).sum()

    def actor_loss(self, batch: Transitions) -> Tensor:
        """-Q_1(o, pi(o)), through the first critic alone."""
        inputs = self._inputs(batch.obs, self.actor(self._seen(batch.obs)))
        return -self.critic(inputs, slice(0, self.n_critics)).mean((1, 2)).sum()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, as tensors and numbers."""
        parts = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return parts | {"generator": self.generator.get_state(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``, bit for bit."""
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]

    def _seen(self, obs: Tensor) -> Tensor:
        """The part of an observation that the actors see, its beginning."""
        return obs[..., : self.actor_obs_dim]

    def _inputs(self, obs: Tensor, actions: Tensor) -> Tensor:
        """What the critics read [C, B, .]: their agent's observation and action, or everybody's."""
        inputs = torch.cat((obs, actions), -1)
        return inputs.transpose(0, 1).reshape(1, inputs.shape[1], -1) if self.config.joint_critic else inputs

    def _q(self, critic: StackedMLP, obs: Tensor, actions: Tensor) -> Tensor:
        """Both critics' values [2, C, B]."""
        return critic(self._inputs(obs, actions).repeat(2, 1, 1)).view(2, self.n_critics, -1)


def step_(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
    """One optimiser step with each member's gradient norm clipped on its own; members stay independent."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = (clip / (norm + 1e-6)).clamp_(max=1.0).view(-1, 1, 1)
    for gradient in gradients:
        gradient.mul_(scale)
    optimizer.step()
