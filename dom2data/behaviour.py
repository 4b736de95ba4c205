"""Train behaviour policies from scratch: the medium and expert checkpoints, and a new prey if requested.

1. Prey: predators and prey learn together; the prey is frozen at the first evaluation in which it rarely
   ends outside the arena and uniformly acting predators earn at most the published random level.
2. Learners: new agents learn against that prey, or the shipped one. Medium is the first evaluation that
   reaches the medium level; expert is the best evaluation of the whole training. The medium level is the
   published one; without one, it lies 30 % of the way from random to expert, as in the published data of
   spread.

The learners' evaluations use the same action noise as data collection, because that policy is the one stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dom2_policies import zoo
from dom2_policies.policy import Actor, Policy, Uniform, load_actor, save_actor
from dom2_policies.saving import save_state
from dom2data import envs, recipes, scores
from dom2data.errors import FAILED, UserError
from dom2data.executors import one_thread
from dom2data.new_file import replacing
from dom2data.prey import train_prey
from dom2data.rollout import Rows
from dom2data.spec import Progress, VectorEnv, quiet
from dom2data.training import Checkpoint, Recipe, Training, evaluate, recipe

MEDIUM = 0.3
"""Position of medium between random and expert, if there is no published level."""
SAVE_SECONDS = 60.0
"""Time between two saved states, and about the most that a kill can lose."""
STATE, PREY = "training.pt", "prey.json"
"""Files of an unfinished training run."""


def begin(name: str, seed: int, prey: Actor | None = None) -> Training:
    """Return a training with fresh learners in their environment."""
    how = recipe(name)
    env = envs.make(how.critics_see or name, how.num_envs, prey=prey)
    return Training(env, how, seed, envs.spec(name).obs_dim if how.critics_see else env.spec.obs_dim)


def medium_level(name: str, folder: Path = zoo.FOLDER) -> float | None:
    """Return the medium level: the published return, else the one recorded in a folder of checkpoints."""
    if name in scores.PUBLISHED_RETURNS:
        return scores.PUBLISHED_RETURNS[name]["medium"][0]
    try:
        return zoo.entry(name, folder).get("medium_level")
    except ValueError:
        return None


@one_thread()
def replay_buffer(
    name: str,
    seed: int,
    progress: Progress = quiet,
    folder: Path = zoo.FOLDER,
    state: Path | None = None,
) -> tuple[Rows, Checkpoint]:
    """Train against the shipped prey until the medium level is reached.

    Returns all episodes so far in the order of collection, and the policy that reached the level. Repeating
    the call continues, bit for bit, from the file ``state`` that an interrupted call left.
    Raises UserError when training ends below the level, or when no level is known.
    """
    level = medium_level(name, folder)
    if level is None:
        raise UserError(
            f"expected a medium level of {name}, found none; `dom2data train --env {name}` finds one"
        )
    training = begin(name, seed)
    with envs.closing(training.env):
        checkpoint = learn(training, "medium", state, level, progress)[-1]
    n, buffer = len(training.buffer), training.buffer
    if buffer.added > n:
        raise UserError(f"{name}: expected the medium level within {buffer.capacity} episodes, found the "
                        "replay buffer overwritten; enlarge buffer_steps", FAILED)  # fmt: skip
    observations = buffer.observations[:n, ..., : training.learner.actor_obs_dim]
    ended = buffer.terminated[:n]
    return Rows(
        observations, buffer.actions[:n], buffer.rewards[:n], buffer.lengths[:n], ended, ~ended
    ), checkpoint


@one_thread()
def train(
    name: str, seed: int, out: Path, progress: Progress = quiet, new_prey: bool = False
) -> dict[str, Any]:
    """Train medium and expert from scratch into ``out``, laid out like the shipped zoo; return its entry.

    Repeating the call continues, bit for bit, what an interrupted call left in ``out``. ``new_prey`` first
    trains a prey to train against; this is not the environment that ``envs.make`` gives by default.
    Raises UserError when the medium level is not reached, or the expert is no better than uniform actions.
    """
    how = recipe(name)
    out.mkdir(parents=True, exist_ok=True)
    policies: dict[str, Any] = {}
    prey: Actor | None = None
    if new_prey:
        prey, policies["prey"] = the_prey(name, how, seed, out, progress)
    training = begin(name, seed, prey)
    level = medium_level(name)
    with envs.closing(training.env):
        candidates = learn(training, "expert", out / STATE, level, progress)
    best = candidates[-1]
    with envs.closing(envs.make(name, how.num_envs, prey=prey)) as env:
        measured = references(env, best.actor, how.reference_episodes, seed)
    if best.mean <= measured["random"]:
        raise UserError(f"{name}: expected an expert above uniform actions ({measured['random']:.2f}), found "
                        f"{best.mean:.2f} after {how.steps} steps; try another seed", FAILED)  # fmt: skip
    if level is None:
        level = measured["random"] + MEDIUM * (best.mean - measured["random"])
    medium = next(c for c in candidates if c.mean >= level)
    for label, chosen in (("medium", medium), ("expert", best)):
        policies[label] = store(
            chosen.actor, out, f"{env.spec.env_id}-{label}", chosen.summary | {"seed": seed}
        )
    entry = {
        "policies": policies,
        "references": measured,
        "fingerprint": env.spec.fingerprint,
        "medium_level": level,
        "noise": how.noise,
        "recipe": json.loads(json.dumps(dataclasses.asdict(how))),
    }
    with replacing(out / "zoo.json") as partial:
        partial.write_text(json.dumps({name: entry}, indent=1, sort_keys=True) + "\n")
    for unneeded in (STATE, PREY):
        (out / unneeded).unlink(missing_ok=True)
    return entry


def the_prey(
    name: str, how: Recipe, seed: int, out: Path, progress: Progress
) -> tuple[Actor, dict[str, Any]]:
    """Return the prey in ``out``, training it if it does not exist, and its zoo entry."""
    assert how.prey is not None
    noted = out / PREY
    if not noted.exists():
        prey, facts = train_prey(name, how.prey, seed, progress)
        entry = store(prey, out, f"{name}-prey", facts | {"seed": seed})
        with replacing(noted) as partial:
            partial.write_text(json.dumps(entry))
    entry = json.loads(noted.read_text())
    return load_actor(out / entry["file"]), entry


def learn(
    training: Training,
    goal: Literal["medium", "expert"],
    state: Path | None,
    level: float | None,
    progress: Progress,
) -> list[Checkpoint]:
    """Train to the medium ``level`` or to the end, saving the state every minute.

    Returns the checkpoints that improved on all earlier ones: medium is the first of them to reach the level,
    expert the last. Raises UserError when the level is not reached, or when there was no evaluation.
    """
    candidates = restore(training, state) if state is not None and state.exists() else []
    saved = time.monotonic()
    for checkpoint in training.checkpoints():
        what = f"training to {goal}: return {checkpoint.mean:.1f}"
        progress(what, checkpoint.env_steps, training.how.steps)
        if not candidates or checkpoint.mean > candidates[-1].mean:
            candidates.append(checkpoint)
        if goal == "medium" and level is not None and checkpoint.mean >= level:
            break
        if state is not None and time.monotonic() - saved > SAVE_SECONDS:
            save(training, candidates, state)
            saved = time.monotonic()
    if level is not None and (not candidates or candidates[-1].mean < level):
        raise UserError(
            f"{training.env.spec.env_id}: expected a return of {level} within {training.how.steps} steps, "
            "found less; try another seed",
            FAILED,
        )
    if not candidates:
        spec = training.env.spec
        raise UserError(
            f"{spec.env_id}: expected episodes of which {training.how.steps} steps have many, found "
            f"{training.env.num_envs} at once of {spec.horizon} steps each and nothing learned; shorten them",
            FAILED,
        )
    return candidates


def save(training: Training, candidates: list[Checkpoint], file: Path) -> None:
    """Write the state atomically: the file is either the old or the new one."""
    chosen = [c.summary | {"actor": c.actor.state_dict()} for c in candidates]
    with replacing(file) as partial:
        save_state({"training": training.state_dict(), "candidates": chosen}, partial)


def restore(training: Training, file: Path) -> list[Checkpoint]:
    """Restore a saved state; return the candidates in it."""
    state = torch.load(file, weights_only=True)
    training.load_state_dict(state["training"])
    candidates = []
    for at in state["candidates"]:
        actor = training.learner.policy(training.how.noise)
        actor.load_state_dict(at["actor"])
        candidates.append(Checkpoint(actor, at["return"], at["std"], at["env_steps"], at["updates"]))
    return candidates


def references(env: VectorEnv, expert: Policy, episodes: int, seed: int) -> dict[str, float]:
    """Return mean team returns of uniform actions and of the expert, on episodes not used for selection."""
    spec = env.spec
    named: dict[str, Policy] = {
        "random": Uniform(spec.act_dim, spec.act_low, spec.act_high),
        "expert": expert,
    }
    return {
        key: float(evaluate(env, policy, episodes, np.random.SeedSequence(seed, spawn_key=(1,))).mean())
        for key, policy in named.items()
    }


@one_thread()
def measure(name: str, episodes: int | None, seed: int, folder: Path = zoo.FOLDER) -> dict[str, float]:
    """Return ``references`` for the expert of a folder [the shipped one], in the standard environment.

    Raises UserError like ``recipes.require_prey``.
    """
    how = recipe(name)
    recipes.require_prey(name, folder)
    expert = load_actor(zoo.path(name, "expert", folder), zoo.entry(name, folder)["noise"])
    with envs.closing(envs.make(name, how.num_envs)) as env:
        return references(env, expert, episodes or how.reference_episodes, seed)


def store(actor: Actor, out: Path, stem: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Save a checkpoint and return its zoo entry."""
    file = out / f"{stem}.safetensors"
    save_actor(actor, file)
    return facts | {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
