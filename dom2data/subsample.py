"""A part of a dataset's episodes as a dataset of its own, with its lineage."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import ids, recipes
from dom2data.dataset import Dataset, Int64
from dom2data.errors import UserError
from dom2data.generate import full_disk, require_space
from dom2data.publish import Origin, publish
from dom2data.store import zarr
from dom2data.store.layout import layout
from dom2data.store.manifest import digest
from dom2data.store.stage import open_stage


def choose(episodes: int, fraction: float, seed: int) -> Int64:
    """Ascending numbers of the episodes kept: round(fraction x episodes), at least one.

    With one seed a smaller fraction is a part of a larger one. Raises UserError outside (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"expected a fraction in (0, 1], found {fraction:g}; 0.05 keeps 5 % of the episodes")
    if seed < 0:
        raise UserError(f"expected a --seed of 0 or more, found {seed}")
    count = max(1, int(fraction * episodes + 0.5))
    return np.sort(np.random.default_rng(np.random.SeedSequence(seed)).permutation(episodes)[:count])


def default_id(parent: str, fraction: float, seed: int) -> str:
    """``dom2/tag-medium-5pct-v0`` of ``dom2/tag-medium-v0``; another seed than 0 is named, too."""
    space, name, version = ids.split(parent)
    percent = f"{100 * fraction:.6g}".replace(".", "p").replace("-", "m")
    return f"{space}/{name}-{percent}pct" + (f"-s{seed}" if seed else "") + f"-v{version or 0}"


def subsample(
    parent: Dataset,
    fraction: float,
    *,
    seed: int = 0,
    out: str | None = None,
    root: str | Path | None = None,
    force: bool = False,
) -> Dataset:
    """Keep whole episodes of ``parent``, chosen by ``seed``, in their order.

    The array ``parent_episode`` [episodes] holds their numbers in the parent.
    Raises UserError like ``choose`` and ``generate``; the parent is never its own target.
    """
    started = time.perf_counter()
    chosen = choose(parent.n_episodes, fraction, seed)
    target = ids.full(out) if out else default_id(parent.id, fraction, seed)
    if target == parent.id:
        raise UserError(f"expected another id than the parent's, found {target}; choose one with --out")
    arrays = take(parent, chosen)
    layouts = layout(parent.spec, len(chosen), len(arrays["actions"]))
    layouts["parent_episode"] = dataclasses.replace(layouts["source"])
    recipe = {
        "operation": "subsample",
        "parent": parent.hash,
        "fraction": fraction,
        "seed": seed,
        "versions": recipes.versions(),
    }
    lineage = {
        "id": parent.id,
        "hash": parent.hash,
        "fraction": fraction,
        "seed": seed,
        "episodes": parent.n_episodes,
        "indices_hash": digest(chosen.astype("<i8").data),
        "recipe": parent.manifest["recipe"],
        "parents": parent.manifest["parents"],
    }
    kept = {key: parent.manifest.get(key, default) for key, default in (("sources", []), ("policies", {}))}
    origin = Origin(parent.env, parent.quality, recipe, parents=[lineage], **kept)
    with open_stage(target, ids.root(root)) as stage, full_disk(stage):
        stage.check(recipe, force)
        require_space(stage.base, sum(array.nbytes for array in layouts.values()))
        stage.begin(recipe, partial(zarr.create, layouts=layouts))
        leaves = zarr.write_arrays(stage.data, layouts, arrays)
        return publish(stage, parent.spec, layouts, leaves, origin, started)


def take(parent: Dataset, chosen: Int64) -> dict[str, NDArray[Any]]:
    """The arrays of the episodes ``chosen``, one after another in that order."""
    lengths = parent.lengths[chosen]
    steps = _ranges(parent.offsets[chosen], lengths)
    rows = _ranges(parent.offsets[chosen] + chosen, lengths + 1)  # observations have T+1 rows per episode
    per_episode = ("returns", "agent_returns", "terminated", "truncated", "source")
    return {
        "observations": parent.array("observations")[rows],
        "actions": parent.array("actions")[steps],
        "rewards": parent.array("rewards")[steps],
        "offsets": np.concatenate(([0], np.cumsum(lengths))),
        **{name: parent.array(name)[chosen] for name in per_episode},
        "parent_episode": chosen,
    }


def _ranges(starts: Int64, lengths: Int64) -> Int64:
    """start, start+1, ..., start+length-1 of every pair, concatenated."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
