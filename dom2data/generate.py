"""Recipe -> dataset: plan, blocks over worker processes, resume, commit."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dom2_policies import zoo
from dom2data import ragged, recipes
from dom2data.collect import Job, collect_block, flatten, share
from dom2data.dataset import Dataset
from dom2data.errors import FAILED, UserError
from dom2data.plan import Plan, plan
from dom2data.pool import run
from dom2data.publish import Origin, publish
from dom2data.recipes import UNIFORM
from dom2data.store import zarr
from dom2data.store.layout import ArrayLayout, block_episodes, layout
from dom2data.store.stage import Leaves, Stage, open_stage

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, steps done, steps in all)."""

Written = tuple[dict[str, ArrayLayout], dict[str, list[str]], dict[str, Any]]
"""Layouts, leaves, and what is recorded of the policies."""

MakeJob = Callable[[int], Job]

__all__ = ["Plan", "generate", "plan"]


def generate(
    todo: Plan, *, workers: int = 1, force: bool = False, progress: Progress | None = None
) -> Dataset:
    """Carry out a plan; blocks that an interrupted run of the same recipe has finished are kept.

    Raises UserError: code 2 when the id is taken (and not ``force``), 1 when the disk is full, a worker dies,
    or another process writes the same id. A dataset that is replaced goes only when the new one is complete.
    """
    started, recipe = time.perf_counter(), todo.recipe.to_json()
    progress = progress or (lambda what, done, total: None)
    with open_stage(todo.dataset_id, todo.base) as stage, full_disk(stage):
        stage.check(recipe, force)
        write = _write_replay if recipes.quality(todo.recipe.quality).replay else _write_blocks
        layouts, leaves, policies = write(stage, todo, workers, progress)
        parts = recipes.quality(todo.recipe.quality).parts or (("replay", 1.0),)
        own = recipes.entry(todo.recipe.env, todo.zoo)["references"] if todo.zoo != zoo.FOLDER else None
        sources = [name for name, _ in parts]
        origin = Origin(todo.recipe.env, todo.recipe.quality, recipe, sources, policies, own=own)
        return publish(stage, todo.spec, layouts, leaves, origin, started)


def _write_blocks(stage: Stage, todo: Plan, workers: int, progress: Progress) -> Written:
    require_space(stage.base, todo.nbytes)
    how = (todo.recipe.to_json(), partial(_job, todo), workers, progress)
    if todo.ragged:
        layouts, leaves = ragged.write(stage, todo.spec, *how, require_space)
    else:
        layouts, leaves = _write_whole(stage, todo, *how)
    known = recipes.entry(todo.recipe.env, todo.zoo)["policies"] if todo.checkpoints else {}
    return layouts, leaves, {name: known[name] for name in todo.checkpoints}


def _write_whole(
    stage: Stage, todo: Plan, recipe: Mapping[str, Any], job: MakeJob, workers: int, progress: Progress
) -> tuple[dict[str, ArrayLayout], dict[str, list[str]]]:
    """Episodes of equal length: every block is one chunk of every array, written where it belongs."""
    layouts, steps = todo.layouts, todo.layouts["actions"].shape[0]
    done = stage.begin(recipe, partial(zarr.create, layouts=layouts))
    done = {block: noted for block, noted in done.items() if _intact(stage, layouts, block, noted)}
    rows = layouts["actions"].chunk_rows
    progress("collecting", min(steps, len(done) * rows), steps)
    jobs = [job(block) for block in range(layouts["actions"].n_chunks) if block not in done]
    with closing(run(partial(_write_block, stage, layouts), jobs, workers)) as results:
        for block, its_leaves in results:
            done[block] = its_leaves
            progress("collecting", min(steps, len(done) * rows), steps)
    blocks = [done[block] for block in sorted(done)]
    leaves = {name: [block[name] for block in blocks] for name in blocks[0]}
    offsets = np.arange(layouts["offsets"].shape[0]) * todo.spec.horizon
    return layouts, leaves | zarr.write_arrays(stage.data, layouts, {"offsets": offsets})


def _job(todo: Plan, block: int) -> Job:
    parts, horizon = recipes.quality(todo.recipe.quality).parts, todo.spec.horizon
    files = tuple(None if name == UNIFORM else todo.checkpoints[name] for name, _ in parts)
    size = ragged.block_episodes(horizon) if todo.ragged else block_episodes(horizon)
    stop = (block + 1) * size if todo.ragged else min((block + 1) * size, todo.episodes)
    episodes = share([part for _, part in parts], block * size, stop)
    return Job(todo.recipe.env, files, episodes, todo.recipe.noise, todo.recipe.seed, block)


def _write_block(stage: Stage, layouts: Mapping[str, ArrayLayout], job: Job) -> tuple[int, Leaves]:
    arrays = collect_block(job)
    del arrays["offsets"]  # known beforehand, and written at the end
    leaves = {n: zarr.write_chunk(stage.data, n, layouts[n], job.block, a) for n, a in arrays.items()}
    stage.record(job.block, leaves)
    return job.block, leaves


def _intact(stage: Stage, layouts: Mapping[str, ArrayLayout], block: int, leaves: Leaves) -> bool:
    """Whether a block noted as finished is really there (a power cut may have lost its bytes)."""
    try:
        return all(zarr.leaf(stage.data, name, layouts[name], block) == leaf for name, leaf in leaves.items())
    except UserError:
        return False


def _write_replay(stage: Stage, todo: Plan, workers: int, progress: Progress) -> Written:
    """Training is one process whatever ``workers`` says; its state is kept in the stage."""
    from dom2data import behaviour

    recipe = todo.recipe
    stage.begin(recipe.to_json(), lambda data: None)
    state = stage.folder / "training.pt"
    rows, reached = behaviour.replay_buffer(recipe.env, recipe.seed, progress, folder=todo.zoo, state=state)
    arrays = flatten(todo.spec, rows, np.zeros(len(rows.lengths), np.int64))
    layouts = layout(todo.spec, len(rows.lengths), len(arrays["actions"]))
    require_space(stage.base, sum(array.nbytes for array in layouts.values()))
    zarr.create(stage.data, layouts)
    leaves = zarr.write_arrays(stage.data, layouts, arrays)
    return layouts, leaves, {"medium": reached.summary | {"seed": recipe.seed}}


def require_space(base: Path, nbytes: int) -> None:
    """Raises UserError (code 1) when the disk under ``base`` has less than ``nbytes`` free."""
    free = shutil.disk_usage(base).free
    if free < nbytes:
        raise UserError(
            f"expected {nbytes / 1e6:,.0f} MB free under {base}, found {free / 1e6:,.0f}; "
            "free some, or choose another --root",
            FAILED,
        )


@contextmanager
def full_disk(stage: Stage) -> Iterator[None]:
    """Turn "no space left" into a UserError (code 1) that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"expected room for {stage.dataset_id} under {stage.base}, found the disk full; nothing was "
            "committed, and none is lost: free some space and run the same command again",
            FAILED,
        ) from error
