"""Check that a dataset is what it claims to be. Each check returns its first finding, or None."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import stats
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.spec import EnvSpec
from dom2data.store import manifest as manifests
from dom2data.store import minari
from dom2data.store.layout import ArrayLayout, chunk_file, layout

Arrays = Mapping[str, NDArray[Any]]


def verify(dataset: Dataset) -> list[str]:
    """Run all checks; return their names. Raises UserError (code 3) with the first finding."""
    for name, check in CHECKS.items():
        finding = check(dataset)
        if finding is not None:
            raise UserError(f"{dataset.id}: {name}: {finding}; generate or fetch it again", CHECK_FAILED)
    return list(CHECKS)


def files(data: Path, manifest: Mapping[str, Any]) -> str | None:
    """Quick check without reading: every chunk has its file, and the total size is the one recorded."""
    for name, entry in manifest["arrays"].items():
        array = ArrayLayout.from_json(entry)
        for chunk in range(array.n_chunks):
            if not (data / chunk_file(name, array, chunk)).is_file():
                return f"array {name!r}, chunk {chunk}: expected its file, found none"
    added = {manifests.FILE, manifests.MARKER, minari.FILE}  # written after the size was measured
    size = sum(file.stat().st_size for file in data.rglob("*") if file.is_file() and file.name not in added)
    return (
        None if size == manifest["size_bytes"] else f"expected {manifest['size_bytes']} bytes, found {size}"
    )


def structure(dataset: Dataset) -> str | None:
    """Check that every array exists, with the shape implied by the numbers of steps and episodes."""
    if not 1 <= dataset.n_episodes <= len(dataset):
        return f"expected steps and episodes, found {len(dataset)} and {dataset.n_episodes}"
    block = dataset.manifest["arrays"].get("returns", {}).get("chunk_rows", 1)
    for name, expected in layout(dataset.spec, dataset.n_episodes, len(dataset), block).items():
        entry = dataset.manifest["arrays"].get(name)
        if entry is None:
            return f"expected an array {name!r}, found none"
        if ArrayLayout.from_json(entry) != expected:
            return f"expected {name!r} to be {expected}, found {ArrayLayout.from_json(entry)}"
    return None


def hashes(dataset: Dataset) -> str | None:
    """Check that the values have the manifest's hashes, and that these give the content hash."""
    arrays = dataset.manifest["arrays"]
    for name, entry in arrays.items():
        array = ArrayLayout.from_json(entry)
        found = dataset.leaves(name)
        for chunk, (expected, leaf) in enumerate(zip(entry["leaves"], found, strict=True)):
            if leaf != expected:
                return f"array {name!r}, chunk {chunk}: expected hash {expected[:16]}, found {leaf[:16]}"
        if manifests.array_hash(name, array, found) != entry["hash"]:
            return f"array {name!r}: expected hash {entry['hash'][:16]}, found another"
    content = manifests.content_hash(dataset.spec, arrays)
    return None if content == dataset.hash else f"expected content hash {dataset.hash}, found {content}"


def episodes(spec: EnvSpec, arrays: Arrays) -> str | None:
    """Check that offsets run from 0 to the number of steps, and episodes fit the horizon and have ended."""
    offsets, lengths, steps = arrays["offsets"], np.diff(arrays["offsets"]), len(arrays["actions"])
    if offsets[0] != 0 or offsets[-1] != steps:
        return f"expected offsets from 0 to {steps}, found {offsets[0]} to {offsets[-1]}"
    bad = np.flatnonzero((lengths < 1) | (lengths > spec.horizon))
    if len(bad):
        return f"episode {bad[0]}: expected 1 to {spec.horizon} steps, found {lengths[bad[0]]}"
    open_ended = np.flatnonzero(~(arrays["terminated"] | arrays["truncated"]))
    if len(open_ended):
        return f"episode {open_ended[0]}: expected terminated or truncated, found neither"
    return None


def values(spec: EnvSpec, arrays: Arrays) -> str | None:
    """Check that all values are finite, and that actions are within their bounds."""
    for name in ("observations", "actions", "rewards", "returns", "agent_returns"):
        finite = np.isfinite(arrays.get(name, 0))
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            return f"{name}: expected finite values, found {arrays[name][where]} at {where}"
    actions, low, high = arrays["actions"], spec.act_low, spec.act_high
    if actions.min() < low or actions.max() > high:
        return f"expected actions in [{low:g}, {high:g}], found [{actions.min():g}, {actions.max():g}]"
    return None


def returns(dataset: Dataset) -> str | None:
    """Check that stored returns are the sums of the rewards, and that the manifest's summary agrees."""
    team, agents = stats.episode_returns(dataset.spec, dataset.array("rewards"), dataset.offsets[:-1])
    for name, expected in (("returns", team), ("agent_returns", agents)):
        wrong = np.argwhere(dataset.array(name) != expected)
        if len(wrong):
            i, found = wrong[0][0], dataset.array(name)[wrong[0][0]]
            return f"episode {i}: expected {name} {expected[i]}, the sum of its rewards, found {found}"
    summary = stats.returns_summary(dataset.spec.agent_names, team, agents)
    return None if summary == dataset.manifest["returns"] else "expected the returns' summary, found another"


def lineage(dataset: Dataset) -> str | None:
    """Check that every episode's parent and number there agree with the lineage in the manifest."""
    parents, arrays = dataset.manifest["parents"], dataset.manifest["arrays"]
    if not parents:
        return None
    if "parent_episode" not in arrays or (len(parents) > 1 and "parent" not in arrays):
        return f"expected an array that says which of {len(parents)} parents an episode is from, found none"
    episodes = dataset.array("parent_episode")
    of = dataset.array("parent") if "parent" in arrays else np.zeros_like(episodes)
    if len(episodes) != dataset.n_episodes or of.min() < 0 or of.max() >= len(parents):
        return f"expected one of {len(parents)} parents for every episode, found another"
    for number, parent in enumerate(parents):
        mine = episodes[of == number]
        if len(mine) and not 0 <= mine.min() <= mine.max() < parent["episodes"]:
            return f"expected episodes of {parent['id']} below {parent['episodes']}, found {mine.max()}"
        if manifests.digest(np.ascontiguousarray(mine, "<i8").data) != parent["indices_hash"]:
            return f"expected the episodes of {parent['id']} that its lineage notes, found others"
    return None


CHECKS: dict[str, Callable[[Dataset], str | None]] = {
    "structure": structure,
    "hashes": hashes,
    "episodes": lambda dataset: episodes(dataset.spec, dataset.arrays()),
    "values": lambda dataset: values(dataset.spec, dataset.arrays()),
    "returns": returns,
    "lineage": lineage,
}
