"""Online training of behaviour policies: the training recipe of each environment, and the training loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dom2_policies import td3
from dom2_policies.policy import Actor, Policy, Uniform, acting
from dom2data import envs
from dom2data.allocation import keep_freed_memory
from dom2data.prey import PreyRecipe
from dom2data.rollout import play, seed_of
from dom2data.spec import VectorEnv


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters for training the behaviour policies of one environment."""

    learner: td3.Config = field(default_factory=td3.Config)
    steps: int = 1_000_000
    """Environment steps of training; the expert is the best evaluation during it."""
    noise: float = 0.1
    """Standard deviation of the noise on actions at collection and evaluation."""
    num_envs: int = 200
    waves_per_evaluation: int = 2
    evaluation_episodes: int = 1000
    reference_episodes: int = 20_000
    prey: PreyRecipe | None = None
    critics_see: str | None = None
    """The environment whose observations the critics see; actors see only the first part of each."""


# Four times as many updates, smaller minibatches and a shorter effective horizon: results depend less on the
# seed than with the settings of tag, whose shipped checkpoints were trained earlier.
_KEEN = td3.Config(
    gamma=0.9, batch_size=342, steps_per_update=25, grad_clip=10.0, noise_steps=200_000, reward_scale=0.1
)
_WORLD = Recipe(learner=_KEEN, steps=600_000, waves_per_evaluation=1, prey=PreyRecipe())
_SPREAD = Recipe(learner=replace(_KEEN, reward_scale=0.03), waves_per_evaluation=1)
_HALFCHEETAH = Recipe(
    learner=td3.Config(
        hidden=128,
        lr=3e-4,
        batch_size=256,
        gamma=0.99,
        rho=0.005,
        grad_clip=1e9,
        steps_per_update=10,
        noise_start=0.2,
        noise_steps=1_000_000,
        joint_critic=True,
    ),
    steps=2_000_000,
    num_envs=10,
    waves_per_evaluation=1,
    evaluation_episodes=60,  # some cheetahs fall over, and fewer episodes would not show it
    reference_episodes=200,
    critics_see="halfcheetah-mamujoco",
)
_OTHER = Recipe(  # a user's own environment, in Python: a few thousand steps per second
    num_envs=20, steps=200_000, waves_per_evaluation=4, evaluation_episodes=100, reference_episodes=500
)

RECIPES = {
    "tag": Recipe(prey=PreyRecipe()),
    "world": _WORLD,
    "spread": _SPREAD,
    "halfcheetah": _HALFCHEETAH,
}


def recipe(name: str) -> Recipe:
    """Return the recipe of an environment or its task; the default suits slow environments with few rows."""
    return RECIPES.get(envs.task(name), _OTHER)


@dataclass(frozen=True)
class Checkpoint:
    """An evaluation during training."""

    actor: Actor
    mean: float
    std: float
    env_steps: int
    updates: int

    @property
    def summary(self) -> dict[str, Any]:
        return {"return": self.mean, "std": self.std, "env_steps": self.env_steps, "updates": self.updates}


class Training:
    """Training of learners in ``env`` (``how.num_envs`` rows), from the first random action to ``how.steps``.

    The seed determines everything, on any processor; a saved state continues bit for bit. Actors see the
    first ``actor_obs_dim`` entries of an observation.
    """

    def __init__(self, env: VectorEnv, how: Recipe, seed: int, actor_obs_dim: int = 0):
        keep_freed_memory()
        spec, config = env.spec, how.learner
        self.env, self.how, self.seed, self.wave = env, how, seed, 0
        init, explore, sampling, _, tests = np.random.SeedSequence(seed).spawn(5)
        self.learner = td3.TD3(
            config, spec.n_agents, spec.obs_dim, spec.act_dim, seed_of(init), actor_obs_dim
        )
        self.generator = torch.Generator().manual_seed(seed_of(explore))
        self.rng = np.random.default_rng(sampling)
        self.test_seed = seed_of(tests)
        capacity = min(config.buffer_steps, how.steps) // spec.horizon
        self.buffer = td3.ReplayBuffer(capacity, spec.horizon, spec.n_agents, spec.obs_dim, spec.act_dim)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.wave * self.env.num_envs * self.env.spec.horizon

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Train to the end; yield an evaluation every few waves of episodes, and at the end."""
        while self.steps < self.how.steps:
            self._collect()
            if self.steps > self.how.learner.random_steps:
                self._learn()
            due = self.wave % self.how.waves_per_evaluation == 0 or self.steps >= self.how.steps
            if due and self.learner.updates:
                yield self._evaluate()

    def _collect(self) -> None:
        """Collect one episode in every row."""
        config, spec = self.how.learner, self.env.spec
        policy: Policy = self.learner.policy(config.noise(self.steps))
        if self.steps < config.random_steps:
            policy = Uniform(spec.act_dim, spec.act_low, spec.act_high)
        obs = self.env.reset(wave_seed(self.seed, self.wave))
        rows = play(self.env, obs, acting(policy, self.generator))
        self.buffer.add(rows.observations, rows.actions, rows.rewards, rows.lengths, rows.terminated)
        self.wave += 1

    def _learn(self) -> None:
        config, wave_steps = self.how.learner, self.env.num_envs * self.env.spec.horizon
        for _ in range(wave_steps // config.steps_per_update):
            self.learner.update(self.buffer.sample(config.batch_size, self.rng, joint=config.joint_critic))

    def _evaluate(self) -> Checkpoint:
        actor = self.learner.policy(self.how.noise)
        seed = np.random.SeedSequence(self.test_seed)
        returns = evaluate(self.env, actor, self.how.evaluation_episodes, seed)
        return Checkpoint(
            actor, float(returns.mean()), float(returns.std()), self.steps, self.learner.updates
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, for ``torch.save``."""
        return {
            "wave": self.wave,
            "learner": self.learner.state_dict(),
            "buffer": self.buffer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.wave = state["wave"]
        self.learner.load_state_dict(state["learner"])
        self.buffer.load_state_dict(state["buffer"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])


def wave_seed(seed: int, wave: int) -> np.random.SeedSequence:
    """Return the seed of a wave's reset: child number ``wave`` of ``SeedSequence(seed).spawn(5)[3]``."""
    return np.random.SeedSequence(seed, spawn_key=(3, wave))


def evaluate(env: VectorEnv, policy: Policy, episodes: int, seed: np.random.SeedSequence) -> np.ndarray:
    """Return the team returns of at least ``episodes`` new episodes, with the same seeds for every policy."""
    batches = seed.spawn(-(-episodes // env.num_envs))
    act = acting(policy, torch.Generator().manual_seed(seed_of(seed)))
    played = (play(env, env.reset(s), act) for s in batches)
    return np.concatenate([env.spec.team(rows.rewards.sum(axis=1)) for rows in played])
