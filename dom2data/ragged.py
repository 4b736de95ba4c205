"""Generation with episodes that may end early: collect small blocks, and merge them once there are enough.

How many episodes are needed for the requested steps is known only after playing them. So blocks are first
stored beside the arrays as ``parts/<b>.npz``. The dataset consists of their episodes in order, up to the one
that reaches the number of steps; blocks after it have no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import collect
from dom2data.collect import Job
from dom2data.executors import Executor
from dom2data.new_file import replacing
from dom2data.spec import EnvSpec, Progress
from dom2data.store import zarr
from dom2data.store.layout import ArrayLayout, layout
from dom2data.store.manifest import digest
from dom2data.store.stage import Stage

Written = tuple[dict[str, ArrayLayout], dict[str, list[str]]]


def block_episodes(horizon: int) -> int:
    """Return the episodes per block: about 5,000 steps. Never change this, because the data depend on it.

    Blocks are smaller than elsewhere, because every episode of a block has its own environment.
    """
    return max(1, 5_000 // horizon)


def write(
    stage: Stage,
    spec: EnvSpec,
    recipe: Mapping[str, Any],
    job: Callable[[int], Job],
    executor: Executor,
    progress: Progress,
) -> Written:
    """Play blocks ``job(0)``, ``job(1)``, ... until they hold ``recipe["steps"]`` steps, and merge them."""
    steps = play(stage, spec, recipe, job, executor, progress)
    return _merge(stage, spec, len(steps), recipe["steps"])


def play(
    stage: Stage,
    spec: EnvSpec,
    recipe: Mapping[str, Any],
    job: Callable[[int], Job],
    executor: Executor,
    progress: Progress,
    shard: tuple[int, int] = (0, 1),
) -> dict[int, int]:
    """Play the blocks k, k + n, k + 2 n, ... of a shard (k, n) until they hold its share of the steps.
    Return the number of steps of each block."""
    (first, every), noted = shard, stage.begin(recipe, lambda data: None)
    (stage.folder / "parts").mkdir(exist_ok=True)
    steps = {block: _steps(stage, block) for block, note in noted.items() if intact(stage, block, note)}
    wanted, at_most = math.ceil(recipe["steps"] / every), block_episodes(spec.horizon) * spec.horizon
    own = {(block - first) // every: n for block, n in steps.items()}
    while numbers := missing(own, wanted, at_most):
        progress("collecting", min(wanted, sum(steps.values())), wanted)
        jobs = [job(first + number * every) for number in numbers]
        with closing(executor.map(partial(_play, stage), jobs, stage.needs)) as results:
            for block, its_steps in results:
                steps[block] = own[(block - first) // every] = its_steps
                progress("collecting", min(wanted, sum(steps.values())), wanted)
    return steps


def missing(steps: Mapping[int, int], wanted: int, at_most: int) -> list[int]:
    """Return the blocks to play next, given the steps of those played and the most steps a block can have."""
    if gaps := [block for block in range(max(steps, default=0)) if block not in steps]:
        return gaps
    short = wanted - sum(steps.values())
    per_block = sum(steps.values()) / len(steps) if steps else at_most
    return list(range(len(steps), len(steps) + math.ceil(max(short, 0) / per_block)))


def file_of(stage: Stage, block: int) -> Path:
    """Return the file of a block."""
    return stage.folder / "parts" / f"{block}.npz"


def size(stage: Stage) -> int:
    """Return the bytes of the blocks played, 0 if there are none."""
    return sum(file.stat().st_size for file in (stage.folder / "parts").glob("*.npz"))


def _play(stage: Stage, job: Job) -> tuple[int, int]:
    arrays, file = collect.collect_block(job), file_of(stage, job.block)
    with replacing(file) as partial, partial.open("wb") as writing:
        np.savez(writing, **arrays)  # type: ignore[arg-type]
    stage.record(job.block, {"part": digest(file.read_bytes())})
    return job.block, len(arrays["actions"])


def intact(stage: Stage, block: int, note: Mapping[str, str]) -> bool:
    """Whether a block noted as finished has its file, undamaged."""
    file = file_of(stage, block)
    return file.is_file() and digest(file.read_bytes()) == note["part"]


def _steps(stage: Stage, block: int) -> int:
    return int(_read(stage, "offsets", block)[-1])


def _read(stage: Stage, name: str, block: int) -> NDArray[Any]:
    with np.load(file_of(stage, block), allow_pickle=False) as part:
        return part[name]


def _merge(stage: Stage, spec: EnvSpec, blocks: int, wanted: int) -> Written:
    """Write the arrays, one at a time, from the parts in order."""
    ends = np.cumsum(np.concatenate([np.diff(_read(stage, "offsets", block)) for block in range(blocks)]))
    episodes = int(np.searchsorted(ends, wanted)) + 1
    layouts = layout(spec, episodes, int(ends[episodes - 1]))
    stage.require_space(sum(array.nbytes for array in layouts.values()))
    zarr.create(stage.data, layouts)
    offsets = np.concatenate(([0], ends[:episodes]))
    leaves = zarr.write_arrays(stage.data, layouts, {"offsets": offsets})
    for name, array in layouts.items():
        if name != "offsets":
            parts = map(partial(_read, stage, name), range(blocks))
            leaves[name] = _write(stage, name, array, parts)
    return layouts, leaves


def _write(stage: Stage, name: str, array: ArrayLayout, parts: Iterator[NDArray[Any]]) -> list[str]:
    """Write an array from its parts; return its leaves. At most a chunk and two parts are in memory."""
    leaves, part = [], next(parts)
    for chunk in range(array.n_chunks):
        rows = array.rows(chunk)
        values = np.empty((rows.stop - rows.start, *array.shape[1:]), part.dtype)
        filled = 0
        while filled < len(values):
            if not len(part):
                part = next(parts)
            taken = part[: len(values) - filled]
            values[filled : filled + len(taken)] = taken
            filled, part = filled + len(taken), part[len(taken) :]
        leaves.append(zarr.write_chunk(stage.data, name, array, chunk, values))
    return leaves
