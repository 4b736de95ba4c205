"""Generation where episodes may end early: parts of a few episodes each, merged when there are enough.

How many episodes make the steps asked for is known only when they have been played. So the blocks lie beside
the arrays as ``parts/<b>.npz`` first; the dataset is all their episodes in order, up to the one that reaches
the number of steps. Blocks beyond it, if any, change nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dom2data import collect
from dom2data.collect import Job
from dom2data.pool import run
from dom2data.spec import EnvSpec
from dom2data.store import zarr
from dom2data.store.layout import ArrayLayout, layout
from dom2data.store.manifest import digest
from dom2data.store.stage import Stage

Written = tuple[dict[str, ArrayLayout], dict[str, list[str]]]


def block_episodes(horizon: int) -> int:
    """Episodes per block: about 5,000 steps, fixed for good (it enters the bytes).

    Fewer than elsewhere, because every episode of a block has an environment of its own.
    """
    return max(1, 5_000 // horizon)


def write(
    stage: Stage,
    spec: EnvSpec,
    recipe: Mapping[str, Any],
    job: Callable[[int], Job],
    workers: int,
    progress: Callable[[str, int, int], None],
    require_space: Callable[[Path, int], None],
) -> Written:
    """Play blocks ``job(0)``, ``job(1)``, ... until they hold ``recipe["steps"]`` steps, and merge them."""
    noted = stage.begin(recipe, lambda data: None)
    (stage.folder / "parts").mkdir(exist_ok=True)
    steps = {block: _steps(stage, block) for block, note in noted.items() if _intact(stage, block, note)}
    wanted = recipe["steps"]
    while blocks := missing(steps, wanted, block_episodes(spec.horizon) * spec.horizon):
        progress("collecting", min(wanted, sum(steps.values())), wanted)
        with closing(run(partial(_play, stage), [job(block) for block in blocks], workers)) as results:
            for block, its_steps in results:
                steps[block] = its_steps
                progress("collecting", min(wanted, sum(steps.values())), wanted)
    return _merge(stage, spec, len(steps), wanted, require_space)


def missing(steps: Mapping[int, int], wanted: int, at_most: int) -> list[int]:
    """The blocks to play next, given the steps of those played and how many a block has at most."""
    if gaps := [block for block in range(max(steps, default=0)) if block not in steps]:
        return gaps
    short = wanted - sum(steps.values())
    per_block = sum(steps.values()) / len(steps) if steps else at_most
    return list(range(len(steps), len(steps) + math.ceil(max(short, 0) / per_block)))


def _part(stage: Stage, block: int) -> Path:
    return stage.folder / "parts" / f"{block}.npz"


def _play(stage: Stage, job: Job) -> tuple[int, int]:
    arrays, file = collect.collect_block(job), _part(stage, job.block)
    unfinished = file.with_suffix(".partial.npz")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    os.replace(unfinished, file)
    stage.record(job.block, {"part": digest(file.read_bytes())})
    return job.block, len(arrays["actions"])


def _intact(stage: Stage, block: int, note: Mapping[str, str]) -> bool:
    file = _part(stage, block)
    return file.is_file() and digest(file.read_bytes()) == note["part"]


def _steps(stage: Stage, block: int) -> int:
    with np.load(_part(stage, block), allow_pickle=False) as part:
        return int(part["offsets"][-1])


def _merge(
    stage: Stage, spec: EnvSpec, blocks: int, wanted: int, require_space: Callable[[Path, int], None]
) -> Written:
    """Write the arrays, one after another, from the parts in order."""

    def values(name: str) -> list[Any]:
        found = []
        for block in range(blocks):
            with np.load(_part(stage, block), allow_pickle=False) as part:
                found.append(part[name])
        return found

    ends = np.cumsum(np.concatenate([np.diff(offsets) for offsets in values("offsets")]))
    episodes = int(np.searchsorted(ends, wanted)) + 1
    layouts = layout(spec, episodes, int(ends[episodes - 1]))
    require_space(stage.base, sum(array.nbytes for array in layouts.values()))
    zarr.create(stage.data, layouts)
    leaves: dict[str, list[str]] = {}
    for name, array in layouts.items():
        whole = np.concatenate(([0], ends)) if name == "offsets" else np.concatenate(values(name))
        leaves |= zarr.write_arrays(stage.data, {name: array}, {name: whole[: array.shape[0]]})
    return layouts, leaves
