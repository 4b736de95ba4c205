"""Recipe -> dataset: plan, blocks over worker processes, resume, commit."""

from __future__ import annotations

import difflib
import errno
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dom2_policies import zoo
from dom2data import envs, ids, recipes
from dom2data.collect import Job, collect_block, flatten, share
from dom2data.dataset import Dataset
from dom2data.errors import FAILED, UserError
from dom2data.pool import run
from dom2data.publish import Origin, publish
from dom2data.recipes import UNIFORM, Recipe
from dom2data.spec import EnvSpec
from dom2data.store import zarr
from dom2data.store.layout import ArrayLayout, block_episodes, layout
from dom2data.store.manifest import read
from dom2data.store.stage import Leaves, Stage, open_stage

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, steps done, steps in all)."""

Written = tuple[dict[str, ArrayLayout], dict[str, list[str]], dict[str, Any]]
"""Layouts, leaves, and what is recorded of the policies."""

STEPS = 1_000_000
# Of one worker and of starting one (in this process, spawned), about; they decide no bytes, only how many
# workers are worth their start and what the plan says of the time.
_STEPS_PER_SECOND, _START_S, _SPAWN_S = 220_000, 2.0, 5.0
_TRAINING_STEPS_PER_SECOND = 5_000


@dataclass(frozen=True)
class Plan:
    """What ``generate`` is about to do."""

    dataset_id: str
    base: Path
    spec: EnvSpec
    recipe: Recipe
    checkpoints: Mapping[str, Path]
    zoo: Path
    expected_steps: int
    """``steps`` in whole episodes; of medium-replay, what the shipped medium level took"""

    @property
    def episodes(self) -> int | None:
        """Whole episodes, at least as many as ``steps`` needs; None where the replay buffer decides."""
        return None if self.recipe.steps is None else math.ceil(self.recipe.steps / self.spec.horizon)

    @property
    def layouts(self) -> dict[str, ArrayLayout]:
        """The arrays to be written; none where the replay buffer decides."""
        if self.episodes is None:
            return {}
        return layout(self.spec, self.episodes, self.episodes * self.spec.horizon)

    @property
    def nbytes(self) -> int:
        """Disk space needed at most (noisy float32 hardly compresses)."""
        episodes = math.ceil(self.expected_steps / self.spec.horizon)
        return sum(array.nbytes for array in layout(self.spec, episodes, self.expected_steps).values())

    def seconds(self, workers: int) -> float:
        """A rough guess of the time it takes."""
        if self.episodes is None:
            return _START_S + self.expected_steps / _TRAINING_STEPS_PER_SECOND
        workers = min(workers, math.ceil(self.episodes / block_episodes(self.spec.horizon)))
        start = _START_S if workers == 1 else _SPAWN_S
        return start + self.expected_steps / (_STEPS_PER_SECOND * workers)

    def best_workers(self, cores: int) -> int:
        """The number of workers that is fastest: for a small dataset, or for training, one is."""
        return min(range(1, cores + 1), key=self.seconds)


def plan(
    env: str,
    quality: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    out: str | None = None,
    root: str | Path | None = None,
    checkpoints_in: Path = zoo.FOLDER,
) -> Plan:
    """Decide everything that the bytes of a dataset depend on.

    Raises UserError for an unknown environment or quality, a missing or altered checkpoint, a number of steps
    below 1, or any number with medium-replay.
    """
    try:
        spec = envs.spec(env)
    except ValueError as error:
        near = difflib.get_close_matches(env, envs.NAMES, n=1)
        raise UserError(f"{error}" + (f"; did you mean {near[0]}?" if near else "")) from error
    replay = recipes.quality(quality).replay
    if replay and steps is not None:
        raise UserError(
            f"expected no --steps with {quality} (it is what the replay buffer holds), found {steps}; "
            "generate it whole, then `dom2data subsample --fraction F`"
        )
    if steps is not None and steps < 1:
        raise UserError(f"expected --steps of 1 or more, found {steps}")
    if seed < 0:
        raise UserError(f"expected a --seed of 0 or more, found {seed}")
    found = recipes.checkpoints(env, quality, checkpoints_in)
    recipe = Recipe(
        env=env,
        quality=quality,
        steps=None if replay else steps or STEPS,
        seed=seed,
        noise=float(zoo.entry(env, checkpoints_in)["noise"]) if found else 0.0,
        policies={name: recipes.file_hash(path) for name, path in found.items()},
        fingerprint=spec.fingerprint,
        versions=recipes.versions(),
    )
    name = out or f"{env}-{quality}" + (f"-s{seed}" if seed else "")
    expected = recipe.steps or zoo.entry(env)["policies"]["medium"]["env_steps"]
    expected = math.ceil(expected / spec.horizon) * spec.horizon
    return Plan(ids.full(name), ids.root(root), spec, recipe, found, checkpoints_in, expected)


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
        origin = Origin(todo.recipe.env, todo.recipe.quality, recipe, [name for name, _ in parts], policies)
        return publish(stage, todo.spec, layouts, leaves, origin, started)


def _write_blocks(stage: Stage, todo: Plan, workers: int, progress: Progress) -> Written:
    layouts, steps = todo.layouts, todo.layouts["actions"].shape[0]
    require_space(stage.base, todo.nbytes)
    done = stage.begin(todo.recipe.to_json(), partial(zarr.create, layouts=layouts))
    done = {block: noted for block, noted in done.items() if _intact(stage, layouts, block, noted)}
    rows = layouts["actions"].chunk_rows
    progress("collecting", min(steps, len(done) * rows), steps)
    jobs = [job for job in _jobs(todo) if job.block not in done]
    with closing(run(partial(_write_block, stage, layouts), jobs, workers)) as results:
        for block, its_leaves in results:
            done[block] = its_leaves
            progress("collecting", min(steps, len(done) * rows), steps)
    blocks = [done[block] for block in sorted(done)]
    leaves = {name: [block[name] for block in blocks] for name in blocks[0]}
    offsets = np.arange(layouts["offsets"].shape[0]) * todo.spec.horizon
    known = zoo.entry(todo.recipe.env, todo.zoo)["policies"] if todo.checkpoints else {}
    return (
        layouts,
        leaves | zarr.write_arrays(stage.data, layouts, {"offsets": offsets}),
        {name: known[name] for name in todo.checkpoints},
    )


def _jobs(todo: Plan) -> Iterator[Job]:
    parts, size = recipes.quality(todo.recipe.quality).parts, block_episodes(todo.spec.horizon)
    files = tuple(None if name == UNIFORM else todo.checkpoints[name] for name, _ in parts)
    for block, start in enumerate(range(0, todo.episodes or 0, size)):
        episodes = share([part for _, part in parts], start, min(start + size, todo.episodes or 0))
        yield Job(todo.recipe.env, files, episodes, todo.recipe.noise, todo.recipe.seed, block)


def _write_block(stage: Stage, layouts: Mapping[str, ArrayLayout], job: Job) -> tuple[int, Leaves]:
    arrays = collect_block(job)
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
    """Training is one process whatever ``workers`` says, and starts anew when it was interrupted."""
    from dom2data import behaviour

    data = behaviour.replay_buffer(todo.recipe.env, todo.recipe.seed, progress)
    episodes, horizon = data.rewards.shape[:2]
    layouts = layout(todo.spec, episodes, episodes * horizon)
    require_space(stage.base, sum(array.nbytes for array in layouts.values()))
    source = np.zeros(episodes, np.int64)
    arrays = flatten(todo.spec, data.observations, data.actions, data.rewards, source)
    arrays["offsets"] = np.arange(episodes + 1) * horizon
    stage.discard()  # what an interrupted run left may have been made for another number of episodes
    stage.begin(todo.recipe.to_json(), partial(zarr.create, layouts=layouts))
    leaves = zarr.write_arrays(stage.data, layouts, arrays)
    return layouts, leaves, {"medium": data.checkpoint.summary | {"seed": todo.recipe.seed}}


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


def exists(todo: Plan) -> bool:
    """Whether a complete dataset of this id and recipe is there already."""
    try:
        return read(ids.directory(todo.dataset_id, todo.base))["recipe"] == todo.recipe.to_json()
    except UserError:
        return False
