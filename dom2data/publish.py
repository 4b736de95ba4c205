"""The last steps of making a dataset: write arrays into a stage, make the manifest, commit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from numpy.typing import NDArray

from dom2data import dataset, scores, stats
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.store import manifest as manifests
from dom2data.store import zarr
from dom2data.store.layout import ArrayLayout, laid_out
from dom2data.store.remote_stage import RemoteStage
from dom2data.store.stage import Stage, open_stage

_RECORDED = ("dom2", "numpy", "torch", "numba", "mujoco", "pettingzoo", "zarr", "numcodecs")


@dataclass(frozen=True)
class Origin:
    """Where a dataset comes from: the part of the manifest that does not follow from its values."""

    env: str
    quality: str | None
    recipe: dict[str, Any]
    sources: Sequence[str]
    """names of the policies, by the number in the array ``source``"""
    policies: Mapping[str, Any]
    """what is recorded about each checkpoint that acted"""
    parents: Sequence[Mapping[str, Any]] = ()
    own: Mapping[str, float] | None = None
    """reference returns measured with these policies; None: those of the shipped policies"""


def write(
    dataset_id: str,
    base: Path,
    spec: EnvSpec,
    arrays: Mapping[str, NDArray[Any]],
    origin: Origin,
    started: float,
    force: bool,
) -> Dataset:
    """Stage arrays in memory and ``publish`` them. Raises UserError like ``generate``."""
    layouts = laid_out(spec, arrays)
    with open_stage(dataset_id, base) as stage:
        stage.check(origin.recipe, force)
        stage.require_space(sum(array.nbytes for array in layouts.values()))
        stage.begin(origin.recipe, partial(zarr.create, layouts=layouts))
        leaves = zarr.write_arrays(stage.data, layouts, arrays)
        return publish(stage, spec, layouts, leaves, origin, started)


def publish(
    stage: Stage | RemoteStage,
    spec: EnvSpec,
    layouts: Mapping[str, ArrayLayout],
    leaves: Mapping[str, list[str]],
    origin: Origin,
    started: float,
) -> Dataset:
    """Commit a stage whose arrays are all written; ``leaves`` are their chunk hashes, ``started`` is the
    ``time.perf_counter()`` at the start."""
    team, agents = (stage.read(name, layouts[name]) for name in ("returns", "agent_returns"))
    arrays = manifests.array_entries(layouts, leaves)
    manifest = {
        "schema": manifests.SCHEMA,
        "id": stage.dataset_id,
        "env": origin.env,
        "quality": origin.quality,
        "spec": spec.to_json(),
        "steps": layouts["actions"].shape[0],
        "episodes": layouts["returns"].shape[0],
        "returns": stats.returns_summary(spec.agent_names, team, agents),
        "references": _references(origin),
        "recipe": origin.recipe,
        "sources": list(origin.sources),
        "policies": dict(origin.policies),
        "parents": list(origin.parents),
        "arrays": arrays,
        "hash": manifests.content_hash(spec, arrays),
        "size_bytes": stage.size(),
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "wall_s": round(time.perf_counter() - started, 3),
        "versions": {"python": python_version()} | {name: version(name) for name in _RECORDED},
    }
    stage.commit(manifest)
    return dataset.open(stage.dataset_id, stage.base)


def _references(origin: Origin) -> dict[str, dict[str, float] | None]:
    found: dict[str, dict[str, float] | None] = {}
    for kind in ("published", "own"):
        try:
            found[kind] = scores.references(origin.env, kind)
        except UserError:
            found[kind] = None
    return found if origin.own is None else found | {"own": dict(origin.own)}
