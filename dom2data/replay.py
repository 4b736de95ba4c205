"""Play stored actions again: do the recorded seeds lead to the recorded observations and rewards?

A seed begins a *cohort* of episodes: those of one policy in a block (``collect.py``), or one wave of training
(``training.py``), so the whole cohort is simulated, with the actions that the dataset has of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dom2data import envs, recipes
from dom2data.collect import share as shares
from dom2data.dataset import Dataset, Int64
from dom2data.derive import ancestors, origins
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.executors import one_thread
from dom2data.spec import EnvSpec, differences
from dom2data.store.layout import block_episodes


@dataclass(frozen=True)
class Cohort:
    """Episodes ``start`` to ``stop`` of a generated dataset: rows of one environment, reset with one seed."""

    env: str
    start: int
    stop: int
    seed: np.random.SeedSequence


@dataclass(frozen=True)
class Replayed:
    """What was played again, and the largest absolute error of any number in it."""

    episodes: int
    steps: int
    batches: int  # cohorts, as `verify --json` calls them
    error: float
    where: str
    """array, episode and step of the largest error; empty where there is none"""


def replay(dataset: Dataset, share: float) -> Replayed:
    """Play at least this share of the episodes again: whole cohorts, the same ones each time.

    Raises UserError (code 3) when the dataset cannot be replayed (a user's environment, whose code is not run
    on a dataset's word; data made elsewhere; another environment than the one here), or when an episode's
    length is not the environment's.
    """
    if not 0.0 < share <= 1.0:
        raise UserError(f"expected to replay a share in (0%, 100%], found {100 * share:g}%")
    origin = origins(dataset)
    found = cohorts(dataset, origin)
    wanted, done, worst = share * dataset.n_episodes, 0, (0.0, "")
    steps, played = 0, 0
    with one_thread():
        for number in np.random.default_rng(np.random.SeedSequence(0)).permutation(len(found)):
            if done >= wanted:
                break
            cohort, episodes = found[number]
            worst = max(worst, _play(dataset, cohort, episodes, origin[episodes, 1] - cohort.start))
            done, played = done + len(episodes), played + 1
            steps += len(episodes) * dataset.spec.horizon
    error, where = worst
    return Replayed(done, steps, played, error, where if error else "")


def cohort_of(dataset: Dataset, episode: int) -> tuple[Cohort, int]:
    """The cohort that an episode was recorded in, and its row. Raises UserError (code 3) like ``replay``."""
    origin = origins(dataset)
    for cohort, episodes in cohorts(dataset, origin):
        if episode in episodes:
            return cohort, int(origin[episode, 1]) - cohort.start
    raise _cannot(dataset, f"nothing is known of where episode {episode} comes from")


def cohorts(dataset: Dataset, origin: Int64) -> list[tuple[Cohort, Int64]]:
    """Every cohort that the dataset has episodes of, and which."""
    found = []
    for number, ancestor in enumerate(ancestors(dataset.manifest)):
        mine = np.flatnonzero(origin[:, 0] == number)
        made = list(_made_of(dataset, ancestor)) if len(mine) else []
        owner = np.searchsorted([cohort.stop for cohort in made], origin[mine, 1], side="right")
        if len(mine) and owner.max() >= len(made):
            raise _cannot(
                dataset, f"{ancestor['id']} has {ancestor['episodes']} episodes, fewer than are of it"
            )
        found += [(cohort, mine[owner == i]) for i, cohort in enumerate(made) if (owner == i).any()]
    return found


def _made_of(dataset: Dataset, ancestor: Mapping[str, Any]) -> Iterator[Cohort]:
    """The cohorts that a generated dataset was made of, by its recipe."""
    recipe, episodes = ancestor["recipe"] or {}, ancestor["episodes"]
    _check(dataset, ancestor["id"], recipe)
    if recipes.quality(recipe["quality"]).replay:
        from dom2data import training

        how = training.recipe(recipe["env"])
        for wave, start in enumerate(range(0, episodes, how.num_envs)):
            seed = training.wave_seed(recipe["seed"], wave)
            yield Cohort(how.critics_see or recipe["env"], start, start + how.num_envs, seed)
        return
    parts, size = recipes.quality(recipe["quality"]).parts, block_episodes(dataset.spec.horizon)
    for block, start in enumerate(range(0, episodes, size)):
        counts = shares([part for _, part in parts], start, min(start + size, episodes))
        seeds = np.random.SeedSequence(recipe["seed"], spawn_key=(block,)).spawn(2 * len(parts))
        for part, count in enumerate(counts):
            yield Cohort(recipe["env"], start, start + count, seeds[2 * part])
            start += count


def _check(dataset: Dataset, made: str, recipe: Mapping[str, Any]) -> None:
    """Raises UserError (code 3) unless this is a recipe of an environment that is the same here."""
    if not {"env", "quality", "seed", "fingerprint"} <= set(recipe):
        raise _cannot(dataset, f"{made} was not generated here ({recipe.get('operation', 'no recipe')})")
    if envs.is_foreign(recipe["env"]):
        raise _cannot(dataset, f"{recipe['env']} is not one of ours, and no code is run that a dataset names")
    try:
        spec = envs.spec(recipe["env"])
        recipes.quality(recipe["quality"])
    except (ValueError, UserError) as error:
        raise _cannot(dataset, str(error)) from error
    if not spec.fingerprint == recipe["fingerprint"] == dataset.spec.fingerprint:
        raise _cannot(dataset, _changed(spec, dataset.spec))


def _changed(here: EnvSpec, then: EnvSpec) -> str:
    changed = [f"{name} {theirs} (here {ours})" for name, ours, theirs in differences(here.facts, then.facts)]
    return f"it was made in another {here.env_id}: {', '.join(changed) or 'another fingerprint'}"


def _cannot(dataset: Dataset, why: str) -> UserError:
    message = f"{dataset.id}: cannot replay: {why}; `dom2data verify` without --replay checks the rest"
    return UserError(message, CHECK_FAILED)


def _play(dataset: Dataset, cohort: Cohort, episodes: Int64, rows: Int64) -> tuple[float, str]:
    """The largest error in ``episodes`` [n], which are ``rows`` [n] of the cohort, and where it is."""
    spec, horizon = dataset.spec, dataset.spec.horizon
    short = episodes[dataset.lengths[episodes] != horizon]
    if len(short):
        message = f"episode {short[0]}: expected {horizon} steps, found {dataset.lengths[short[0]]}"
        raise UserError(f"{dataset.id}: replay: {message}; generate or fetch it again", CHECK_FAILED)
    steps = dataset.offsets[episodes][:, None] + np.arange(horizon)
    actions = np.zeros((horizon, cohort.stop - cohort.start, spec.n_agents, spec.act_dim), np.float32)
    actions[:, rows] = dataset.array("actions")[steps].swapaxes(0, 1)
    observations, rewards = dataset.array("observations"), dataset.array("rewards")
    terminated, truncated = dataset.array("terminated")[episodes], dataset.array("truncated")[episodes]
    env = envs.make(cohort.env, num_envs=cohort.stop - cohort.start)
    worst = (0.0, "")

    def compare(name: str, time: int, seen: Any, noted: Any) -> tuple[float, str]:
        apart = np.abs(np.subtract(seen[rows], noted, dtype=np.float64)).reshape(len(rows), -1).max(axis=1)
        apart[np.isnan(apart)] = np.inf
        row = int(np.argmax(apart))
        return max(worst, (float(apart[row]), f"{name} of episode {episodes[row]}, step {time}"))

    obs = env.reset(seed=cohort.seed)[..., : spec.obs_dim]  # training may have seen more than actors do
    worst = compare("observations", 0, obs, observations[steps[:, 0] + episodes])
    for time in range(horizon):
        step = env.step(actions[time])
        seen = step.obs[..., : spec.obs_dim]
        worst = compare("observations", time + 1, seen, observations[steps[:, time] + episodes + 1])
        worst = compare("rewards", time, step.rewards, rewards[steps[:, time]])
    worst = compare("terminated", horizon - 1, step.terminated, terminated)
    worst = compare("truncated", horizon - 1, step.truncated, truncated)
    return worst
