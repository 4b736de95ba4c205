"""Train the prey of tag and world, which is then frozen and becomes part of the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dom2_policies import td3
from dom2_policies.policy import Actor, Uniform, acting
from dom2data import envs, scores
from dom2data.envs.particle import ParticleEnv
from dom2data.errors import FAILED, UserError
from dom2data.rollout import play, seed_of
from dom2data.spec import EnvSpec, Float32, Progress, Step, quiet


@dataclass(frozen=True)
class PreyRecipe:
    """Hyper-parameters of the joint training of predators and prey, and of the choice of the prey.

    With its own reward alone, a fast prey learns to leave the arena, where it cannot be caught and chasing it
    teaches nothing. ``penalty`` is added in training so that the prey flees inside the arena.
    """

    predators: td3.Config = field(default_factory=td3.Config)
    prey: td3.Config = field(default_factory=lambda: td3.Config(lr=1e-3))
    steps: int = 300_000
    """Environment steps after which the search for a prey is given up."""
    num_envs: int = 200
    penalty: float = 2.0
    """Reward lost per unit by which a coordinate exceeds ``edge``, besides the environment's penalty."""
    edge: float = 0.9
    evaluation_episodes: int = 1000
    outside: float = 0.2
    """Largest allowed fraction of episodes that end with the prey outside the arena."""


class Joint:
    """Tag or world with the prey as an additional learning agent; its observation is padded with zeros."""

    def __init__(self, env: ParticleEnv):
        self.env, self.num_envs = env, env.num_envs
        inner = env.spec
        self.spec = EnvSpec(
            f"{inner.env_id}-joint", (*inner.agent_names, "prey"), (*inner.obs_dims, env.prey_obs.shape[-1]),
            inner.act_dim, inner.act_low, inner.act_high, inner.horizon, "individual", {},
        )  # fmt: skip

    def reset(self, seed: Any = None, mask: Any = None) -> Float32:
        return self._widen(self.env.reset(seed, mask))

    def step(self, actions: Float32) -> Step:
        n = self.env.spec.n_agents
        step = self.env.step(actions[:, :n], actions[:, n:])
        rewards = np.concatenate((step.rewards, self.env.prey_rewards), axis=1)
        return step._replace(obs=self._widen(step.obs), rewards=rewards)

    def _widen(self, obs: Float32) -> Float32:
        prey = self.env.prey_obs
        padded = np.pad(prey, ((0, 0), (0, 0), (0, obs.shape[-1] - prey.shape[-1])))
        return np.concatenate((obs, padded), axis=1)


class Team:
    """Two stacks of actors side by side: the predators', then the prey's."""

    def __init__(self, predators: Any, prey: Any, n_predators: int):
        self.predators, self.prey, self.n = predators, prey, n_predators

    def act(self, obs: torch.Tensor, generator: torch.Generator, deterministic: bool = False) -> torch.Tensor:
        predators = self.predators.act(obs[..., : self.n, :], generator, deterministic)
        return torch.cat((predators, self.prey.act(obs[..., self.n :, :], generator, deterministic)), dim=-2)


def train_prey(
    name: str, how: PreyRecipe, seed: int, progress: Progress = quiet
) -> tuple[Actor, dict[str, Any]]:
    """Train until a prey rarely ends outside the arena and uniform predators earn at most the published
    random level. Return it with facts about its training. Raises UserError if none is found in ``how.steps``.
    """
    inner = envs.unguarded(name, how.num_envs)
    env = Joint(inner)
    n, prey_obs_dim, spec = inner.spec.n_agents, inner.prey_obs.shape[-1], env.spec
    streams = np.random.SeedSequence(seed, spawn_key=(0,)).spawn(5)
    seeds = [seed_of(stream) for stream in streams]
    predators = td3.TD3(how.predators, n, inner.spec.obs_dim, spec.act_dim, seeds[0])
    prey = td3.TD3(how.prey, 1, prey_obs_dim, spec.act_dim, seeds[1])
    generator, rng = torch.Generator().manual_seed(seeds[2]), np.random.default_rng(streams[3])
    buffer = td3.ReplayBuffer(how.steps // spec.horizon, spec.horizon, n + 1, spec.obs_dim, spec.act_dim)
    wave_steps = how.num_envs * spec.horizon
    for steps in range(wave_steps, how.steps + 1, wave_steps):
        noise = how.predators.noise(steps)
        explorers = (
            Uniform(spec.act_dim)
            if steps <= how.predators.random_steps
            else Team(predators.policy(noise), prey.policy(noise), n)
        )
        wave = play(env, env.reset(streams[4].spawn(1)[0]), acting(explorers, generator))
        beyond = np.maximum(np.abs(wave.observations[:, 1:, n, 2:4]) - how.edge, 0.0).sum(axis=-1)
        wave.rewards[:, :, n] -= how.penalty * beyond
        buffer.add(wave.observations, wave.actions, wave.rewards, wave.lengths, wave.terminated)
        if steps <= how.predators.random_steps:
            continue
        for _ in range(wave_steps // how.predators.steps_per_update):
            predators.update(buffer.sample(how.predators.batch_size, rng, slice(0, n)))
            prey.update(narrow(buffer.sample(how.prey.batch_size, rng, slice(n, n + 1)), prey_obs_dim))
        candidate = prey.policy(noise=0.0)
        random, outside = probe(env, candidate, how, seed)
        progress(f"training the prey: random predators get {random:.1f}", steps, how.steps)
        if outside <= how.outside and random <= scores.PUBLISHED[name]["random"]:
            facts = {"env_steps": steps, "updates": prey.updates, "random_return": random, "outside": outside}
            return candidate, facts
    raise UserError(f"{name}: expected a prey within {how.steps} steps, found none; try another seed", FAILED)


def probe(env: Joint, actor: Actor, how: PreyRecipe, seed: int) -> tuple[float, float]:
    """Return the mean return of uniform predators against a prey, and how often it ends outside the arena."""
    n, act_dim = env.env.spec.n_agents, env.spec.act_dim
    team = Team(Uniform(act_dim), actor, n)
    act = acting(team, torch.Generator().manual_seed(seed))
    returns, outside = [], []
    for s in np.random.SeedSequence(seed, spawn_key=(2,)).spawn(-(-how.evaluation_episodes // env.num_envs)):
        rows = play(env, env.reset(s), act)
        returns.append(rows.rewards[:, :, 0].sum(axis=1))
        outside.append(np.abs(rows.observations[:, -1, n, 2:4]).max(axis=-1) > 1.0)
    return float(np.mean(returns)), float(np.mean(outside))


def narrow(batch: td3.Transitions, obs_dim: int) -> td3.Transitions:
    """Return the transitions with only the first ``obs_dim`` entries of each observation."""
    return batch._replace(obs=batch.obs[..., :obs_dim], next_obs=batch.next_obs[..., :obs_dim])
