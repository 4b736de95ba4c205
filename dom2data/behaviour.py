"""Train behaviour policies from nothing: the frozen prey, then the medium and expert checkpoints.

1. Prey: predators and prey learn together; the prey is frozen at the first evaluation at which it stays in
   the arena and uniformly acting predators earn no more than the published random level.
2. Learners: new agents learn against that prey. Medium is the first evaluation that reaches the published
   medium level; expert is the best evaluation up to the last step.

All evaluations act with the noise that data are collected with, because that is the policy that gets written.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dom2_policies import td3
from dom2_policies.policy import Actor, Policy, Uniform, save_actor
from dom2data import envs, scores
from dom2data.envs.particle import ParticleEnv
from dom2data.errors import FAILED, UserError
from dom2data.pool import one_thread
from dom2data.prey import PreyRecipe, train_prey
from dom2data.rollout import rollout, seed_of, team_returns
from dom2data.spec import VectorEnv

Progress = Callable[[str, int, int], None]  # what is going on, environment steps done, of how many


@dataclass(frozen=True)
class Recipe:
    """How the behaviour policies of one environment are trained."""

    learner: td3.Config
    steps: int
    """Environment steps of training; the expert is the best evaluation on the way."""
    noise: float = 0.1
    """Standard deviation of the noise on actions at collection and evaluation."""
    num_envs: int = 200
    waves_per_evaluation: int = 2
    evaluation_episodes: int = 1000
    prey: PreyRecipe | None = None


RECIPES = {"tag": Recipe(learner=td3.Config(), steps=1_000_000, prey=PreyRecipe())}
REFERENCE_EPISODES = 20_000


@dataclass(frozen=True)
class Checkpoint:
    """An evaluation during training. ``buffer`` is the learner's own and grows on."""

    actor: Actor
    mean: float
    std: float
    env_steps: int
    updates: int
    buffer: td3.ReplayBuffer

    @property
    def summary(self) -> dict[str, Any]:
        return {"return": self.mean, "std": self.std, "env_steps": self.env_steps, "updates": self.updates}


@dataclass(frozen=True)
class ReplayData:
    """A replay buffer's whole episodes in the order collected, and the checkpoint that closed it.

    ``observations`` [episodes, T+1, N, O], ``actions`` [episodes, T, N, A], ``rewards`` [episodes, T, N].
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    checkpoint: Checkpoint


def recipe(name: str) -> Recipe:
    """The training recipe of an environment. Raises UserError when there is none."""
    if name not in RECIPES:
        raise UserError(f"expected an environment that can be trained ({', '.join(RECIPES)}), found {name!r}")
    return RECIPES[name]


def learn(env: VectorEnv, how: Recipe, seed: int) -> Iterator[Checkpoint]:
    """Train on ``env`` (``how.num_envs`` rows), yielding an evaluation every few waves of episodes.

    One seed fixes everything on one machine, whatever the number of threads is elsewhere.
    """
    spec, config = env.spec, how.learner
    init, explore, sampling, *waves_and_tests = np.random.SeedSequence(seed).spawn(5)
    waves, tests = waves_and_tests
    learner = td3.TD3(config, spec.n_agents, spec.obs_dim, spec.act_dim, seed_of(init))
    generator, rng = torch.Generator().manual_seed(seed_of(explore)), np.random.default_rng(sampling)
    capacity = min(config.buffer_steps, how.steps) // spec.horizon
    buffer = td3.ReplayBuffer(capacity, spec.horizon, spec.n_agents, spec.obs_dim, spec.act_dim)
    wave_steps, wave = env.num_envs * spec.horizon, 0
    while wave * wave_steps < how.steps:
        steps = wave * wave_steps
        learner.actor.noise = config.noise(steps)
        policy: Policy = Uniform(spec.act_dim) if steps < config.random_steps else learner.actor
        buffer.add(*rollout(env, env.reset(waves.spawn(1)[0]), policy, generator))
        wave += 1
        if wave * wave_steps > config.random_steps:
            for _ in range(wave_steps // config.steps_per_update):
                learner.update(buffer.sample(config.batch_size, rng))
        if wave % how.waves_per_evaluation == 0 and learner.updates:
            actor = copy.deepcopy(learner.actor)
            actor.noise = how.noise
            returns = evaluate(env, actor, how.evaluation_episodes, np.random.SeedSequence(seed_of(tests)))
            yield Checkpoint(
                actor, float(returns.mean()), float(returns.std()), wave * wave_steps, learner.updates, buffer
            )


def evaluate(env: VectorEnv, policy: Policy, episodes: int, seed: np.random.SeedSequence) -> np.ndarray:
    """Team returns of at least ``episodes`` fresh episodes, the same ones for every policy."""
    batches = seed.spawn(-(-episodes // env.num_envs))
    generator = torch.Generator().manual_seed(seed_of(seed))
    return np.concatenate(
        [team_returns(rollout(env, env.reset(s), policy, generator)[2], env.spec) for s in batches]
    )


@one_thread()
def replay_buffer(name: str, seed: int, progress: Progress | None = None) -> ReplayData:
    """Train against the shipped prey until the medium level is reached; everything collected till then.

    Raises UserError when training ends below the medium level.
    """
    how = recipe(name)
    checkpoint = first_medium(name, learn(envs.make(name, how.num_envs), how, seed), how, progress)
    n, buffer = len(checkpoint.buffer), checkpoint.buffer
    if buffer.added > n:
        raise UserError(f"{name}: expected the medium level within {buffer.capacity} episodes, found the "
                        "replay buffer overwritten; enlarge buffer_steps", FAILED)  # fmt: skip
    return ReplayData(buffer.observations[:n], buffer.actions[:n], buffer.rewards[:n], checkpoint)


def first_medium(
    name: str, checkpoints: Iterator[Checkpoint], how: Recipe, progress: Progress | None = None
) -> Checkpoint:
    """The first checkpoint at or above the published medium level; later ones are left in the iterator."""
    level = scores.PUBLISHED_RETURNS[name]["medium"][0]
    for checkpoint in checkpoints:
        report(progress, "medium", checkpoint, how)
        if checkpoint.mean >= level:
            return checkpoint
    raise UserError(
        f"{name}: expected a return of {level} within {how.steps} steps, found less; try another seed", FAILED
    )


@one_thread()
def train(
    name: str, seed: int, out: Path, progress: Progress | None = None, keep_prey: bool = False
) -> dict[str, Any]:
    """Prey, medium and expert from nothing into ``out``, laid out like the shipped zoo; returns its entry.

    ``keep_prey`` trains against the shipped prey, so that the environment stays the same one.
    Raises UserError when the medium level is not reached.
    """
    how = recipe(name)
    out.mkdir(parents=True, exist_ok=True)
    policies: dict[str, Any] = {}
    prey: Actor | None = None
    if how.prey is not None and not keep_prey:
        prey, facts = train_prey(name, how.prey, seed, progress)
        policies["prey"] = store(prey, out, f"{name}-prey", facts | {"seed": seed})
    env = envs.make(name, how.num_envs, prey=prey)
    checkpoints = learn(env, how, seed)
    best = medium = first_medium(name, checkpoints, how, progress)
    for checkpoint in checkpoints:
        report(progress, "expert", checkpoint, how)
        best = max(best, checkpoint, key=lambda c: c.mean)
    for label, chosen in (("medium", medium), ("expert", best)):
        policies[label] = store(chosen.actor, out, f"{name}-{label}", chosen.summary | {"seed": seed})
    entry = {
        "policies": policies,
        "references": references(env, best.actor, seed),
        "noise": how.noise,
        "recipe": json.loads(json.dumps(dataclasses.asdict(how))),
    }
    (out / "zoo.json").write_text(json.dumps({name: entry}, indent=1, sort_keys=True) + "\n")
    return entry


def references(env: ParticleEnv, expert: Policy, seed: int) -> dict[str, float]:
    """Mean team returns of uniform actions and of the expert, on episodes that no choice was made with."""
    fresh = np.random.SeedSequence(seed, spawn_key=(1,))
    named: dict[str, Policy] = {"random": Uniform(env.spec.act_dim), "expert": expert}
    return {
        k: float(evaluate(env, p, REFERENCE_EPISODES, copy.deepcopy(fresh)).mean()) for k, p in named.items()
    }


def store(actor: Actor, out: Path, stem: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Save a checkpoint and return what the zoo says of it."""
    file = out / f"{stem}.safetensors"
    save_actor(actor, file)
    return facts | {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def report(progress: Progress | None, goal: str, checkpoint: Checkpoint, how: Recipe) -> None:
    if progress is not None:
        progress(f"training to {goal}: return {checkpoint.mean:.1f}", checkpoint.env_steps, how.steps)
