"""Collect a dataset in several independent jobs (shards), such as those of a SLURM array, and merge them.

Shard k of n collects its blocks into its own folder, ``<root>/.dom2data/shards/<id>/<k>-of-<n>``. A block is
the same whoever collects it. So merging only moves files, and any set of shards that together have every
block will do, even with different n.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from dom2_policies import zoo
from dom2data import generate, ids, named, ragged
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.executors import Executor
from dom2data.generate import LOCAL
from dom2data.plan import Plan, plan
from dom2data.spec import Progress, quiet
from dom2data.store import manifest as manifests
from dom2data.store import zarr
from dom2data.store.layout import chunk_file
from dom2data.store.stage import Leaves, Stage, open_stage, shards_folder


def parse(text: str) -> tuple[int, int]:
    """Parse ``k/n`` as (k, n) with k from 1 to n. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    k, n = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1 <= k <= n:
        raise UserError(f"expected --shard k/n with k from 1 to n, such as 3/8, found {text!r}")
    return k, n


def collect(
    todo: Plan,
    k: int,
    n: int,
    *,
    executor: Executor = LOCAL,
    force: bool = False,
    progress: Progress = quiet,
) -> tuple[Path, int]:
    """Collect the blocks of shard ``k`` of ``n``; return its folder and its number of blocks.

    An interrupted shard continues. Raises UserError: code 2 for a plan that cannot be divided, or (without
    ``force``) whose dataset exists or whose shard has another recipe; 1 like ``generate``.
    """
    base, recipe = _folder(todo), todo.recipe
    if todo.replay:
        raise UserError(
            f"expected a quality of independent blocks with --shard, found {recipe.quality}, which is the "
            "buffer of one training; generate it whole"
        )
    with open_stage(todo.dataset_id, base, f"{k}-of-{n}") as stage:
        stage.check(recipe.to_json(), force)
        if todo.ragged:
            how = (recipe.to_json(), partial(generate.job, todo), executor, progress)
            return stage.folder, len(ragged.play(stage, todo.spec, *how, (k - 1, n)))
        own = range((k - 1) * todo.n_blocks // n, k * todo.n_blocks // n)
        stage.require_space(todo.nbytes * len(own) // todo.n_blocks)
        return stage.folder, len(generate.collect(stage, todo, own, executor, progress))


def found(dataset_id: str, roots: Iterable[Path]) -> list[Stage]:
    """Find the shards of an id under ``roots``, each root once. Raises UserError (code 2) when none exist."""
    unique: dict[Path, Path] = {}
    for root in roots:
        unique.setdefault(root.resolve(), root)
    folders = [
        (root, folder)
        for root in unique.values()
        for folder in sorted(shards_folder(dataset_id, root).glob("*-of-*"))
        if (folder / "recipe.json").is_file()
    ]
    if not folders:
        raise UserError(
            f"expected shards of {dataset_id} in {', '.join(map(str, unique.values()))}, found none; "
            "`dom2data generate ... --shard k/n` makes them, --from names another root"
        )
    return [Stage(dataset_id, root, folder.name) for root, folder in folders]


def planned(shards: Sequence[Stage], base: Path, checkpoints_in: Path = zoo.FOLDER) -> Plan:
    """Return the plan that the shards belong to.

    Raises UserError (code 3) if their recipes differ from each other or from what this machine would make.
    """
    recipes = [shard.recipe() or {} for shard in shards]
    for shard, recipe in zip(shards, recipes, strict=True):
        if not {"env", "quality", "steps", "seed"} <= set(recipe):
            raise UserError(f"{shard.folder}: expected a shard's recipe, found none; remove it", CHECK_FAILED)
        named.environment(recipe["env"])
    for shard, recipe in zip(shards, recipes, strict=True):
        if recipe != recipes[0]:
            name, *_ = [key for key in recipe if recipe[key] != recipes[0].get(key)] or ["recipe"]
            raise UserError(
                f"{shard.folder}: expected {name} {recipes[0].get(name)} as in {shards[0].shard}, found "
                f"{recipe.get(name)}; remove the shards of the other recipe",
                CHECK_FAILED,
            )
    asked: dict[str, Any] = {name: recipes[0][name] for name in ("env", "quality", "steps", "seed")}
    todo = plan(**asked, out=shards[0].dataset_id, root=base, checkpoints_in=checkpoints_in)
    for name, value in todo.recipe.to_json().items():
        if recipes[0].get(name) != value:
            raise UserError(
                f"{shards[0].folder}: expected {name} {value} as installed here, found "
                f"{recipes[0].get(name)}; merge where the shards were made, or with their --checkpoints",
                CHECK_FAILED,
            )
    return todo


def merge(todo: Plan, shards: Sequence[Stage], *, force: bool = False, progress: Progress = quiet) -> Dataset:
    """Move the blocks of shards into one dataset and commit it; shards under its own root are then removed.

    Every block is read and compared with its hash. Raises UserError: code 1, naming them, when blocks are
    missing, 2 when the id is taken, 3 for a damaged block.
    """
    base = _folder(todo)
    with open_stage(todo.dataset_id, base) as stage:
        stage.check(todo.recipe.to_json(), force)
        create = (lambda data: None) if todo.ragged else partial(zarr.create, layouts=todo.layouts)
        there = set(stage.begin(todo.recipe.to_json(), create))
        own = {block: (shard, note) for shard in shards for block, note in shard.blocks().items()}
        if (
            not todo.ragged
        ):  # the number of ragged blocks needed is known only later; missing ones are then played
            _require(todo, shards, there | set(own))
        for block, (shard, note) in own.items():
            if block not in there:
                _adopt(stage, shard, todo, block, note)
    made = generate.generate(todo, force=force, progress=progress)
    for shard in shards:
        if shard.base == base:
            shutil.rmtree(shard.folder)
    return made


def _folder(todo: Plan) -> Path:
    return ids.root(todo.base)


def _require(todo: Plan, shards: Sequence[Stage], there: set[int]) -> None:
    missing = [block for block in range(todo.n_blocks) if block not in there]
    if missing:
        known = ", ".join(shard.shard.replace("-of-", "/") for shard in shards)
        raise UserError(
            f"expected {todo.n_blocks} blocks of {todo.dataset_id}, found {len(there)} (from shards {known}; "
            f"missing: {', '.join(_ranges(missing))}); run the other shards, or these again to their end",
            FAILED,
        )


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Format ascending numbers as ranges: ``3``, ``5-9``."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        first, *rest = [number for _, number in group]
        yield f"{first}-{rest[-1]}" if rest else f"{first}"


def _adopt(stage: Stage, shard: Stage, todo: Plan, block: int, leaves: Leaves) -> None:
    """Check a block's files and hard-link them into the stage, or copy them if on another disk."""
    intact = ragged.intact(shard, block, leaves) if todo.ragged else shard.intact(todo.layouts, block, leaves)
    if not intact:
        raise UserError(
            f"{shard.folder}: expected block {block} with the hash noted, found it damaged; remove "
            f"{shard.folder / 'blocks' / f'{block}.json'} and run the shard again",
            CHECK_FAILED,
        )
    for source, target in _files(stage, shard, todo, block):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        if not todo.ragged:
            manifests.settle(target)
    stage.record(block, leaves)


def _files(stage: Stage, shard: Stage, todo: Plan, block: int) -> Iterator[tuple[Path, Path]]:
    if todo.ragged:
        yield ragged.file_of(shard, block), ragged.file_of(stage, block)
        return
    for name, array in todo.layouts.items():
        if name != "offsets":
            chunk = chunk_file(name, array, block)
            yield shard.data / chunk, stage.data / chunk
