"""Online independent TD3 over a stack of agents (Fujimoto et al. 2018), the source of behaviour policies.

Every agent has its own actor, twin critics and minibatch and sees only its own observation; the stack
trains them together. With ``joint_critic``, one pair of critics reads all agents' observations and actions,
while actors are unchanged (centralised training, decentralised execution; Lowe et al. 2017). Differences from
the paper: gradient norms are clipped per agent, and updates are made in groups after each wave of episodes,
one for every ``steps_per_update`` steps, instead of after each step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dom2_policies import portable
from dom2_policies.policy import Actor, drawn
from dom2_policies.portable import Float32
from dom2_policies.stacked import ALL, StackedMLP

_EPISODES = ("observations", "actions", "rewards", "lengths", "terminated")
_STATEFUL = ("actor", "critic", "target_actor", "target_critic", "actor_optimizer", "critic_optimizer")


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults train the particle tasks in minutes on one core."""

    hidden: int = 64
    """Width of the two hidden layers of actors and critics."""
    lr: float = 3e-3
    """Adam's learning rate, actors and critics."""
    batch_size: int = 1024
    """Transitions per agent and update."""
    gamma: float = 0.95
    """Discount."""
    rho: float = 0.01
    """Rate of the target networks' soft update."""
    smoothing: float = 0.2
    """Standard deviation of the noise on target actions."""
    smoothing_clip: float = 0.5
    """Bound of that noise."""
    policy_delay: int = 2
    """Critic updates per actor update."""
    grad_clip: float = 0.5
    """Largest gradient norm of each agent's network."""
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
    """Factor on rewards in learning."""
    joint_critic: bool = False
    """Use one pair of critics, which read all observations and actions, for a team with one reward."""

    def noise(self, steps: int) -> float:
        """Exploration noise after ``steps`` environment steps."""
        return self.noise_start + (self.noise_end - self.noise_start) * min(1.0, steps / self.noise_steps)


class Transitions(NamedTuple):
    """A minibatch per agent."""

    obs: Float32  # [N, B, O]
    actions: Float32  # [N, B, A]
    rewards: Float32  # [N, B]
    next_obs: Float32  # [N, B, O]
    terminated: Float32  # [N, B], or [1, B] of joint transitions; 1 where the episode terminated


class ReplayBuffer:
    """Whole episodes of at most T steps; the oldest are overwritten first.

    ``observations`` [capacity, T+1, N, O], ``actions`` [capacity, T, N, A], ``rewards`` [capacity, T, N];
    only the first ``lengths`` [capacity] steps of each episode count.
    """

    def __init__(self, capacity: int, horizon: int, n_agents: int, obs_dim: int, act_dim: int):
        self.observations = np.empty((capacity, horizon + 1, n_agents, obs_dim), np.float32)
        self.actions = np.empty((capacity, horizon, n_agents, act_dim), np.float32)
        self.rewards = np.empty((capacity, horizon, n_agents), np.float32)
        self.lengths = np.zeros(capacity, np.int64)
        self.terminated = np.zeros(capacity, bool)
        self.capacity, self.n_agents, self.added = capacity, n_agents, 0
        self._ends = np.zeros(0, np.int64)  # cumulative lengths of the episodes held

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
        """Uniform transitions of ``agents``: each draws its own, or all share their steps (``joint``)."""
        agent = np.arange(self.n_agents)[agents, None]
        flat = rng.integers(self._ends[-1], size=(1 if joint else len(agent), batch_size))
        episode = np.searchsorted(self._ends, flat, side="right")
        left = self._ends[episode] - flat
        step = self.lengths[episode] - left
        take = (episode, step, agent)
        return Transitions(
            self.observations[take],
            self.actions[take],
            self.rewards[take],
            self.observations[episode, step + 1, agent],
            (self.terminated[episode] & (left == 1)).astype(np.float32),
        )


class Adam:
    """Adam over M networks of equal size; each network's gradient is clipped to the norm ``clip``."""

    def __init__(self, layers: portable.Layers, lr: float, clip: float):
        self.values = [array for layer in layers for array in layer]
        self.lr, self.clip, self.decays = lr, clip, np.ones(2)
        self.first = [np.zeros_like(value) for value in self.values]
        self.second = [np.zeros_like(value) for value in self.values]

    def step(self, gradients: Sequence[Float32]) -> None:
        """Take one step with gradients in the order of the layers, each [M, ., .], scaling them in place."""
        scale = portable.clipping(gradients, self.clip)
        self.decays *= (0.9, 0.999)
        rate, correction = self.lr / (1.0 - self.decays[0]), np.sqrt(1.0 - self.decays[1])
        for value, gradient, first, second in zip(
            self.values, gradients, self.first, self.second, strict=True
        ):
            gradient *= scale[:, None, None]
            portable.adam(value, gradient, first, second, rate, correction)

    def state_dict(self) -> dict[str, Any]:
        """Tensors that share memory with the moments, and the powers of the decay rates."""
        moments = {name: list(map(torch.from_numpy, getattr(self, name))) for name in ("first", "second")}
        return moments | {"decays": torch.from_numpy(self.decays)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``, bit for bit."""
        self.decays[:] = state["decays"].numpy()
        for name in ("first", "second"):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                mine[:] = saved.numpy()


class TD3:
    """N learners. Critics read whole observations; actors may see only the first ``actor_obs_dim`` values.

    Gradients are written out by hand, so that every operation rounds alike on every processor (``portable``).
    """

    def __init__(
        self, config: Config, n_agents: int, obs_dim: int, act_dim: int, seed: int, actor_obs_dim: int = 0
    ):
        self.config, self.n_agents, self.updates = config, n_agents, 0
        self.obs_dim, self.actor_obs_dim = obs_dim, actor_obs_dim or obs_dim
        self.generator = torch.Generator().manual_seed(seed)
        hidden = (config.hidden, config.hidden)
        self.actor = Actor((self.actor_obs_dim, *hidden, act_dim), n_agents, [self.generator])
        # All critics are one stack: members 0..C-1 are the first critics, C..2C-1 the second ones.
        self.n_critics, seen = (1, n_agents) if config.joint_critic else (n_agents, 1)
        sizes = (seen * (obs_dim + act_dim), *hidden, 1)
        self.critic = StackedMLP(2 * self.n_critics, sizes, [self.generator])
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = Adam(self.actor.mlp.arrays(), config.lr, config.grad_clip)
        self.critic_optimizer = Adam(self.critic.arrays(), config.lr, config.grad_clip)

    def policy(self, noise: float) -> Actor:
        """A copy of what the N agents have learned so far, acting with Gaussian noise."""
        policy = copy.deepcopy(self.actor)
        policy.noise = noise
        return policy

    def update(self, batch: Transitions) -> None:
        """Make one critic update and, every ``policy_delay`` updates, one actor and target update."""
        self.critic_optimizer.step(self.critic_gradients(batch))
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            self.actor_optimizer.step(self.actor_gradients(batch))
            for target, online in (
                (self.target_actor.mlp, self.actor.mlp),
                (self.target_critic, self.critic),
            ):
                portable.follow(target.arrays(), online.arrays(), self.config.rho)

    def critic_gradients(self, batch: Transitions) -> list[Float32]:
        """Gradients of both critics' mean squared error to r + gamma min_k Q'_k(o', a'), a' smoothed."""
        noise = self.config.smoothing * portable.normal(drawn(self.generator), batch.actions.shape)
        noise = noise.clip(-self.config.smoothing_clip, self.config.smoothing_clip)
        means = portable.forward(self.target_actor.mlp.arrays(), self._seen(batch.next_obs))[-1]
        next_actions = (portable.tanh(means) + noise).clip(-1.0, 1.0)
        *_, next_q = portable.forward(self.target_critic.arrays(), self._twice(batch.next_obs, next_actions))
        rewards = self.config.reward_scale * batch.rewards[: self.n_critics]
        goes_on = np.float32(1.0) - batch.terminated[: self.n_critics]
        least = np.minimum(next_q[: self.n_critics], next_q[self.n_critics :])[..., 0]
        target = rewards + self.config.gamma * goes_on * least
        layers = self.critic.arrays()
        seen = portable.forward(layers, self._twice(batch.obs, batch.actions))
        error = seen[-1] - np.concatenate((target, target))[..., None]
        return portable.gradients(layers, seen, error * np.float32(2.0 / error.shape[1]))

    def actor_gradients(self, batch: Transitions) -> list[Float32]:
        """Gradients of -mean Q_1(o, pi(o)), through the first critic alone."""
        layers = self.actor.mlp.arrays()
        seen = portable.forward(layers, self._seen(batch.obs))
        actions = portable.tanh(seen[-1])
        critics = [
            (weight[: self.n_critics], bias[: self.n_critics]) for weight, bias in self.critic.arrays()
        ]
        judged = portable.forward(critics, self._inputs(batch.obs, actions))
        down = np.full(judged[-1].shape, -1.0 / judged[-1].shape[1], np.float32)
        to_inputs = portable.input_gradient(critics, judged, down)
        to_actions = self._parts(to_inputs)[..., self.obs_dim :]
        return portable.gradients(layers, seen, to_actions * (np.float32(1.0) - actions * actions))

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

    def _seen(self, obs: Float32) -> Float32:
        """The first components of the observations, which the actors see."""
        return obs[..., : self.actor_obs_dim]

    def _inputs(self, obs: Float32, actions: Float32) -> Float32:
        """The critics' inputs [C, B, .]: their agent's observation and action, or all agents'."""
        inputs = np.concatenate((obs, actions), axis=-1)
        return inputs.swapaxes(0, 1).reshape(1, inputs.shape[1], -1) if self.config.joint_critic else inputs

    def _twice(self, obs: Float32, actions: Float32) -> Float32:
        """``_inputs`` for both critics, [2C, B, .]."""
        inputs = self._inputs(obs, actions)
        return np.concatenate((inputs, inputs))

    def _parts(self, inputs: Float32) -> Float32:
        """Undo ``_inputs``: [N, B, O + A]."""
        if not self.config.joint_critic:
            return inputs
        return inputs.reshape(inputs.shape[1], self.n_agents, -1).swapaxes(0, 1)
