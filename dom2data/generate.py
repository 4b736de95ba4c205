"""Generate a dataset from a plan: collect blocks with an executor, resume, commit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np

from dom2_policies import zoo
from dom2data import ragged, recipes
from dom2data.collect import Job, collect_block, flatten, share
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.executors import Executor, Local
from dom2data.plan import Plan, plan
from dom2data.publish import Origin, publish
from dom2data.recipes import UNIFORM
from dom2data.spec import Progress, quiet
from dom2data.store import zarr
from dom2data.store.layout import ArrayLayout, block_episodes, layout
from dom2data.store.remote_stage import RemoteStage
from dom2data.store.stage import Leaves, Stage, full_disk, open_stage

Written = tuple[dict[str, ArrayLayout], dict[str, list[str]], dict[str, Any]]
"""Layouts, leaf hashes, and what is recorded about the policies."""

LOCAL = Local()
MANY_BLOCKS = 100

__all__ = ["Plan", "generate", "plan"]


def generate(
    todo: Plan, *, executor: Executor = LOCAL, force: bool = False, progress: Progress = quiet
) -> Dataset:
    """Execute a plan; blocks already finished by an interrupted run of the same recipe are kept.

    If the plan's base is a URL, the workers send their blocks there directly.

    Raises UserError: code 2 when the id is taken (and not ``force``), 1 when the disk is full, a worker dies,
    or another process writes the same id. In a folder, the old dataset goes once the new one is complete.
    """
    started, recipe = time.perf_counter(), todo.recipe.to_json()
    with _opened(todo) as stage:
        stage.check(recipe, force)
        if isinstance(stage, Stage) and todo.replay:
            layouts, leaves, policies = _write_replay(stage, todo, progress)
        else:
            layouts, leaves, policies = _write_blocks(stage, todo, executor, progress)
        parts = recipes.quality(todo.recipe.quality).parts or (("replay", 1.0),)
        own = None
        if todo.zoo != zoo.FOLDER and recipes.trained_in(todo.spec, todo.recipe.env, todo.zoo):
            own = recipes.entry(todo.recipe.env, todo.zoo)["references"]
        sources = [name for name, _ in parts]
        origin = Origin(todo.recipe.env, todo.recipe.quality, recipe, sources, policies, own=own)
        return publish(stage, todo.spec, layouts, leaves, origin, started)


@contextmanager
def _opened(todo: Plan) -> Iterator[Stage | RemoteStage]:
    if isinstance(todo.base, str):
        if todo.replay or todo.ragged:
            raise UserError(
                f"expected a folder for {todo.dataset_id}, whose size is not known beforehand, found the URL "
                f"{todo.base}; make it in a folder, then `dom2data push`"
            )
        with full_disk(todo.dataset_id, todo.base):
            yield RemoteStage(todo.dataset_id, todo.base)
        return
    with open_stage(todo.dataset_id, todo.base) as stage:
        yield stage


def _write_blocks(stage: Stage | RemoteStage, todo: Plan, executor: Executor, progress: Progress) -> Written:
    if isinstance(stage, Stage):
        stage.require_space(todo.nbytes - ragged.size(stage))
    if isinstance(stage, Stage) and todo.ragged:
        recipe = todo.recipe.to_json()
        layouts, leaves = ragged.write(stage, todo.spec, recipe, partial(job, todo), executor, progress)
    else:
        layouts, leaves = _write_whole(stage, todo, executor, progress)
    known = recipes.entry(todo.recipe.env, todo.zoo)["policies"] if todo.checkpoints else {}
    return layouts, leaves, {name: known[name] for name in todo.checkpoints}


def _write_whole(
    stage: Stage | RemoteStage, todo: Plan, executor: Executor, progress: Progress
) -> tuple[dict[str, ArrayLayout], dict[str, list[str]]]:
    done = collect(stage, todo, range(todo.n_blocks), executor, progress)
    blocks = [done[block] for block in sorted(done)]
    leaves = {name: [block[name] for block in blocks] for name in blocks[0]}
    offsets = np.arange(todo.layouts["offsets"].shape[0]) * todo.spec.horizon
    return todo.layouts, leaves | stage.write_arrays(todo.layouts, {"offsets": offsets})


def collect(
    stage: Stage | RemoteStage, todo: Plan, blocks: Sequence[int], executor: Executor, progress: Progress
) -> dict[int, Leaves]:
    """Collect the missing ones of ``blocks``; return the leaf hashes of every finished block.

    Episodes have equal length, so every block is one chunk of every array, written directly in place.
    """
    layouts, rows = todo.layouts, todo.layouts["actions"].chunk_rows
    steps = min(layouts["actions"].shape[0], len(blocks) * rows)
    noted = stage.begin(todo.recipe.to_json(), partial(zarr.create, layouts=layouts))
    needs = stage.needs + [str(path) for path in todo.checkpoints.values()]
    checker = executor if len(noted) > MANY_BLOCKS else LOCAL  # reading a large dataset is worth workers, too
    with closing(checker.map(partial(_intact, stage, layouts), list(noted.items()), needs)) as results:
        done = {block: noted[block] for block, intact in results if intact}
    progress("collecting", min(steps, len(done) * rows), steps)
    jobs = [job(todo, block) for block in blocks if block not in done]
    with closing(executor.map(partial(_write_block, stage, layouts), jobs, needs)) as results:
        for block, its_leaves in results:
            done[block] = its_leaves
            progress("collecting", min(steps, len(done) * rows), steps)
    return done


def job(todo: Plan, block: int) -> Job:
    """Return the job that collects a block of a plan."""
    parts, horizon = recipes.quality(todo.recipe.quality).parts, todo.spec.horizon
    files = tuple(None if name == UNIFORM else todo.checkpoints[name] for name, _ in parts)
    size = ragged.block_episodes(horizon) if todo.ragged else block_episodes(horizon)
    stop = (block + 1) * size if todo.ragged else min((block + 1) * size, todo.episodes)
    episodes = share([part for _, part in parts], block * size, stop)
    recipe = todo.recipe
    return Job(recipe.env, files, episodes, recipe.noise, recipe.seed, block, recipe.fingerprint)


def _intact(
    stage: Stage | RemoteStage, layouts: Mapping[str, ArrayLayout], noted: tuple[int, Leaves]
) -> tuple[int, bool]:
    return noted[0], stage.intact(layouts, *noted)


def _write_block(
    stage: Stage | RemoteStage, layouts: Mapping[str, ArrayLayout], job: Job
) -> tuple[int, Leaves]:
    arrays = collect_block(job)
    del arrays["offsets"]  # known in advance, and written at the end
    return job.block, stage.write_block(layouts, job.block, arrays)


def _write_replay(stage: Stage, todo: Plan, progress: Progress) -> Written:
    """Write a replay buffer. Training always uses one process; its state is saved in the stage."""
    from dom2data import behaviour

    recipe = todo.recipe
    stage.begin(recipe.to_json(), lambda data: None)
    state = stage.folder / "training.pt"
    rows, reached = behaviour.replay_buffer(recipe.env, recipe.seed, progress, folder=todo.zoo, state=state)
    arrays = flatten(todo.spec, rows, np.zeros(len(rows.lengths), np.int64))
    layouts = layout(todo.spec, len(rows.lengths), len(arrays["actions"]))
    stage.require_space(sum(array.nbytes for array in layouts.values()))
    zarr.create(stage.data, layouts)
    leaves = zarr.write_arrays(stage.data, layouts, arrays)
    return layouts, leaves, {"medium": reached.summary | {"seed": recipe.seed}}
