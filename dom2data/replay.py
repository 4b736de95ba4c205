"""Play stored actions again: do the recorded seeds lead to the recorded observations and rewards?

A seed begins a *cohort* of episodes: those of one policy in a block (``collect.py``), or one wave of training
(``training.py``), so the whole cohort is simulated, with the actions that the dataset has of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dom2data import envs, named, ragged, recipes
from dom2data.collect import interleaved
from dom2data.collect import share as shares
from dom2data.dataset import Dataset, Int64
from dom2data.derive import ancestors, origins
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.executors import one_thread
from dom2data.spec import EnvSpec, differences
from dom2data.store.layout import block_episodes


@dataclass(frozen=True)
class Cohort:
    """Episodes of a generated dataset: the rows of one environment, reset with one seed."""

    env: str
    episodes: Int64
    """number of each row's episode [E]; may exceed the last one that was kept"""
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


def replay(dataset: Dataset, share: float, env: str | None = None) -> Replayed:
    """Replay at least this share of the episodes, in whole cohorts, the same ones each time.

    ``env``, ``module:make``, names a user's own environment; without it, code runs only if the user has
    named it before. Raises UserError: code 2 if ``env`` is given for data of a built-in environment; code 3
    when the dataset cannot be replayed (code not named; imported data; another version of the environment),
    or when an episode's length is not possible in the environment.
    """
    if not 0.0 < share <= 1.0:
        raise UserError(f"expected to replay a share in (0%, 100%], found {100 * share:g}%")
    if env is not None:
        if not (envs.is_foreign(env) and envs.is_foreign(dataset.env)):
            raise UserError(
                f"expected --env module:make with data of such a one, found {env} for {dataset.env}; omit it"
            )
        named.remember(env)
    found = cohorts(dataset, env)
    wanted, done, worst = share * dataset.n_episodes, 0, (0.0, "")
    steps, played = 0, 0
    with one_thread():
        for number in np.random.default_rng(np.random.SeedSequence(0)).permutation(len(found)):
            if done >= wanted:
                break
            cohort, episodes, rows = found[number]
            worst = max(worst, _play(dataset, cohort, episodes, rows))
            done, played = done + len(episodes), played + 1
            steps += int(dataset.lengths[episodes].sum())
    error, where = worst
    return Replayed(done, steps, played, error, where if error else "")


def cohort_of(dataset: Dataset, episode: int) -> tuple[Cohort, int]:
    """Return an episode's cohort and its row in there. Raises UserError (code 3) like ``replay``."""
    for cohort, episodes, rows in cohorts(dataset):
        if episode in episodes:
            return cohort, int(rows[episodes == episode][0])
    raise _cannot(dataset, f"nothing is known of where episode {episode} comes from")


def cohorts(dataset: Dataset, env: str | None = None) -> list[tuple[Cohort, Int64, Int64]]:
    """Return every cohort of which the dataset has episodes, the numbers of these, and the row of each."""
    origin, found = origins(dataset), []
    for number, ancestor in enumerate(ancestors(dataset.manifest)):
        mine = np.flatnonzero(origin[:, 0] == number)
        if not len(mine):
            continue
        there = origin[mine, 1]
        if there.min() < 0 or there.max() >= ancestor["episodes"]:
            raise _cannot(dataset, f"{ancestor['id']} has {ancestor['episodes']} episodes, others are of it")
        made = list(_made_of(dataset, ancestor, env))
        owner, row = np.zeros((2, sum(len(cohort.episodes) for cohort in made)), np.int64)
        for i, cohort in enumerate(made):
            owner[cohort.episodes], row[cohort.episodes] = i, np.arange(len(cohort.episodes))
        of, rows = owner[there], row[there]
        found += [(cohort, mine[of == i], rows[of == i]) for i, cohort in enumerate(made) if (of == i).any()]
    return found


def _made_of(dataset: Dataset, ancestor: Mapping[str, Any], env: str | None) -> Iterator[Cohort]:
    """Yield the cohorts of a generated dataset, derived from its recipe; together they have every episode."""
    recipe, episodes = ancestor["recipe"] or {}, ancestor["episodes"]
    name = _environment(dataset, ancestor["id"], recipe, env)
    if recipes.quality(recipe["quality"]).replay:
        from dom2data import training

        how = training.recipe(recipe["env"])
        for wave, start in enumerate(range(0, episodes, how.num_envs)):
            seed = training.wave_seed(recipe["seed"], wave)
            yield Cohort(how.critics_see or name, np.arange(start, start + how.num_envs), seed)
        return
    early = envs.is_foreign(name)  # may end early: blocks are of another size, and always whole
    parts, horizon = recipes.quality(recipe["quality"]).parts, dataset.spec.horizon
    size = ragged.block_episodes(horizon) if early else block_episodes(horizon)
    for block, start in enumerate(range(0, episodes, size)):
        stop = start + size if early else min(start + size, episodes)
        counts = shares([part for _, part in parts], start, stop)
        numbers = np.arange(start, stop)
        if early:
            numbers[interleaved(counts)] = np.arange(start, stop)
        seeds = np.random.SeedSequence(recipe["seed"], spawn_key=(block,)).spawn(2 * len(parts))
        for part, rows in enumerate(np.split(numbers, np.cumsum(counts)[:-1])):
            yield Cohort(name, rows, seeds[2 * part])


def _environment(dataset: Dataset, made: str, recipe: Mapping[str, Any], env: str | None) -> str:
    """The name of a recipe's environment. Raises UserError (code 3) unless it is the same here."""
    if not {"env", "quality", "seed", "fingerprint"} <= set(recipe):
        raise _cannot(dataset, f"{made} was not generated here ({recipe.get('operation', 'no recipe')})")
    name = env or recipe["env"]
    named.require(name, f"`dom2data verify {dataset.id} --replay 1% --env {name}` allows it")
    try:
        spec = envs.spec(name)
        recipes.quality(recipe["quality"])
    except (ValueError, UserError) as error:
        raise _cannot(dataset, str(error)) from error
    if not spec.fingerprint == recipe["fingerprint"] == dataset.spec.fingerprint:
        raise _cannot(dataset, _changed(spec, dataset.spec))
    return name


def _changed(here: EnvSpec, then: EnvSpec) -> str:
    changed = [f"{name} {theirs} (here {ours})" for name, ours, theirs in differences(here.facts, then.facts)]
    return f"it was made in another {here.env_id}: {', '.join(changed) or 'another fingerprint'}"


def _cannot(dataset: Dataset, why: str) -> UserError:
    message = f"{dataset.id}: cannot replay: {why}; `dom2data verify` without --replay checks the rest"
    return UserError(message, CHECK_FAILED)


def _play(dataset: Dataset, cohort: Cohort, episodes: Int64, rows: Int64) -> tuple[float, str]:
    """The largest error in ``episodes`` [n], which are ``rows`` [n] of the cohort, and where it is."""
    spec, horizon, lengths = dataset.spec, dataset.spec.horizon, dataset.lengths[episodes]
    wrong = episodes[lengths > horizon if envs.is_foreign(cohort.env) else lengths != horizon]
    if len(wrong):
        message = f"episode {wrong[0]}: expected {horizon} steps, found {dataset.lengths[wrong[0]]}"
        raise UserError(f"{dataset.id}: replay: {message}; generate or fetch it again", CHECK_FAILED)
    first, worst = dataset.offsets[episodes], (0.0, "")
    observations, actions, rewards = (dataset.array(name) for name in ("observations", "actions", "rewards"))
    terminated, truncated = dataset.array("terminated")[episodes], dataset.array("truncated")[episodes]

    def compare(name: str, time: int, on: Int64, seen: Any, noted: Any) -> tuple[float, str]:
        apart = np.abs(np.subtract(seen[rows[on]], noted, dtype=np.float64)).reshape(len(on), -1).max(axis=1)
        apart[np.isnan(apart)] = np.inf
        row = int(np.argmax(apart))
        return max(worst, (float(apart[row]), f"{name} of episode {episodes[on[row]]}, step {time}"))

    with envs.closing(envs.make(cohort.env, num_envs=len(cohort.episodes))) as env:
        obs = env.reset(seed=cohort.seed)[..., : spec.obs_dim]  # training may have seen more than actors do
        worst = compare("observations", 0, np.arange(len(rows)), obs, observations[first + episodes])
        for time in range(lengths.max()):
            on = np.flatnonzero(lengths > time)
            taken = np.zeros((len(cohort.episodes), spec.n_agents, spec.act_dim), np.float32)
            taken[rows[on]] = actions[first[on] + time]
            step, last = env.step(taken), lengths[on] == time + 1
            seen, noted = step.obs[..., : spec.obs_dim], observations[(first + episodes)[on] + time + 1]
            worst = compare("observations", time + 1, on, seen, noted)
            worst = compare("rewards", time, on, step.rewards, rewards[first[on] + time])
            worst = compare("terminated", time, on, step.terminated, last & terminated[on])
            # A replay buffer notes one of both where an episode of several agents ends in both ways.
            cut = last & truncated[on] & ~terminated[on]
            worst = compare("truncated", time, on, step.truncated & ~step.terminated, cut)
    return worst
