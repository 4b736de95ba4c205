"""Turn data made elsewhere into a dataset: check, stage, write, publish, recording their origin."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import ids, recipes, stats, verify
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.publish import Origin, write
from dom2data.spec import EnvSpec
from dom2data.store.layout import laid_out

_DERIVED = ("returns", "agent_returns")
MOST_SOURCES = 100_000
"""largest number of policies in ``source``, because lists of all of them are made"""


@dataclass(frozen=True)
class Imported:
    """What a reader found, in this project's terms.

    ``arrays``: observations [S+Ep, N, O], actions [S, N, A], rewards [S, N] float32; offsets [Ep+1] int64;
    terminated, truncated [Ep] bool; optionally source and other [Ep] int64 arrays, such as parent_episode.
    Returns are computed.
    """

    spec: EnvSpec
    arrays: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...]
    """what was changed or assumed, one sentence each"""
    origin: dict[str, Any]
    """recorded in the recipe: format, file names with their SHA-256, options"""
    env: str | None = None
    """the short name of the environment [spec.env_id]"""
    quality: str | None = None
    sources: Sequence[str] = ()
    """names of the policies, by the number in the array ``source``"""
    parents: Sequence[Mapping[str, Any]] = ()


def ingest(found: Imported, dataset_id: str, base: Path, force: bool = False) -> Dataset:
    """Write imported data as a dataset with this id under ``base``.

    Raises UserError: code 3, before anything is written, when the data are invalid; otherwise like
    ``generate``.
    """
    started = time.perf_counter()
    arrays = checked(found.spec, found.arrays)
    team, agents = stats.episode_returns(found.spec, arrays["rewards"], arrays["offsets"][:-1])
    if not np.isfinite(agents).all():
        raise refused("expected rewards of finite sums, found sums beyond float32")
    arrays |= {"returns": team, "agent_returns": agents}
    recipe = {
        "operation": "import",
        **found.origin,
        "notes": list(found.notes),
        "versions": recipes.versions(),
    }
    sources = list(found.sources) or [str(found.origin.get("format", "imported"))]
    env = found.env or found.spec.env_id
    origin = Origin(env, found.quality, recipe, sources, policies={}, parents=found.parents)
    return write(ids.full(dataset_id), base, found.spec, arrays, origin, started, force)


def checked(spec: EnvSpec, found: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Check the arrays and return them with ``source``. Raises UserError (code 3) with the first finding."""
    arrays = dict(found)
    episodes, steps = len(arrays["offsets"]) - 1, len(arrays["actions"])
    arrays.setdefault("source", np.zeros(max(episodes, 0), np.int64))
    if episodes < 1 or steps < 1:
        raise refused(f"expected at least one episode and one step, found {max(episodes, 0)} and {steps}")
    expected = laid_out(spec, arrays)
    for name, array in expected.items():
        if name in _DERIVED:
            continue
        is_there = name in arrays and (str(arrays[name].dtype), arrays[name].shape)
        if is_there != (array.dtype, array.shape):
            raise refused(f"expected {name} as {array.dtype} {array.shape}, found {is_there or 'none'}")
    finding = (
        verify.episodes(spec, arrays)
        or _sources(arrays["source"])
        or verify.values(spec, arrays)
        or _shared(spec, arrays["rewards"])
    )
    if finding:
        clips = finding.startswith("expected actions in")
        raise refused(f"{finding}; --option clip=true clips them" if clips else finding)
    return {name: arrays[name] for name in expected if name not in _DERIVED}


def _sources(source: NDArray[Any]) -> str | None:
    low, high = int(source.min()), int(source.max())
    if low < 0 or high >= MOST_SOURCES:
        return f"expected sources numbered from 0 to at most {MOST_SOURCES - 1:,}, found {low} to {high}"
    return None


def _shared(spec: EnvSpec, rewards: NDArray[Any]) -> str | None:
    if spec.reward == "shared" and (rewards != rewards[:, :1]).any():
        return "expected one reward shared by the agents, found different ones"
    return None


def as_float32(name: str, values: NDArray[Any]) -> tuple[NDArray[np.float32], str]:
    """Convert to float32; return also a note if that changed values. Infinite ones are refused later."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.ascontiguousarray(values, np.float32)
    rounded = values.dtype != np.float32 and (found != values).any()
    return found, f"{name} rounded from {values.dtype} to float32" if rounded else ""


def clipped(spec: EnvSpec, actions: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Clip actions to their bounds; return also a note that says so."""
    low, high = spec.act_low, spec.act_high
    outside = int(((actions < low) | (actions > high)).sum())
    says = f"{outside:,} of {actions.size:,} action values clipped to [{low:g}, {high:g}]"
    return np.clip(actions, low, high), says


def refused(finding: str) -> UserError:
    """Return the UserError (code 3) for an invalid file."""
    return UserError(f"{finding}; nothing was written", CHECK_FAILED)
