"""Derived datasets, made of episodes of others, and how to trace an episode to its origin.

Every derived dataset records its parents as a chain of hashes, and for every episode its number in the parent
(``parent_episode``). If a parent is derived itself, or if there are several, ``ancestor`` also holds which of
the ``ancestors`` each episode comes from, and ``ancestor_episode`` its number there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import ids
from dom2data.dataset import Dataset, Int64
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.publish import Origin, write
from dom2data.recipes import UNIFORM
from dom2data.store.manifest import digest


@dataclass(frozen=True)
class Part:
    """The episodes taken from one parent, as ascending numbers, and how they were chosen."""

    parent: Dataset
    chosen: Int64
    how: Mapping[str, Any]

    @cached_property
    def ends(self) -> list[Mapping[str, Any]]:
        """The parent's ``ancestors``."""
        return ancestors(self.parent.manifest)

    @cached_property
    def origins(self) -> Int64:
        """[episodes taken, 2]: the number of an end, and that of the episode in it."""
        return origins(self.parent)[self.chosen]

    def lineage(self) -> dict[str, Any]:
        """Return what the manifest records about this parent."""
        manifest = self.parent.manifest
        return {
            "id": self.parent.id,
            "hash": self.parent.hash,
            **self.how,
            "episodes": self.parent.n_episodes,
            "kept": len(self.chosen),
            "indices_hash": digest(self.chosen.astype("<i8").data),
            "recipe": manifest["recipe"],
            "parents": manifest["parents"],
        }


def derive(
    parts: Sequence[Part],
    order: Int64,
    target: str,
    recipe: dict[str, Any],
    quality: str | None,
    root: str | Path | None,
    force: bool,
) -> Dataset:
    """Write the episodes of the concatenated parts, permuted by ``order``, as dataset ``target``.

    All counts and summaries are recomputed. Raises UserError when ``target`` is a parent's id, and like
    ``generate``.
    """
    started = time.perf_counter()
    if target in (part.parent.id for part in parts):
        raise UserError(f"expected another id than the parent's, found {target}; choose one with --out")
    names, numbers, policies = _sources([part.parent for part in parts])
    taken = [take(part.parent, part.chosen) for part in parts]
    for arrays, number in zip(taken, numbers, strict=True):
        arrays["source"] = number[arrays["source"]]
    spec, arrays = parts[0].parent.spec, _joined(taken, order)
    arrays["parent_episode"] = np.concatenate([part.chosen for part in parts])[order]
    if len(parts) > 1:
        arrays["parent"] = np.repeat(np.arange(len(parts)), [len(part.chosen) for part in parts])[order]
    if len(parts) > 1 or parts[0].parent.manifest["parents"]:
        arrays["ancestor"], arrays["ancestor_episode"] = _origins(parts)[order].T
    own = (parts[0].parent.manifest.get("references") or {}).get("own")
    lineage = [part.lineage() for part in parts]
    origin = Origin(parts[0].parent.env, quality, recipe, names, policies, lineage, own)
    return write(target, ids.root(root), spec, arrays, origin, started, force)


def take(parent: Dataset, chosen: Int64) -> dict[str, NDArray[Any]]:
    """Return the arrays of the episodes ``chosen``, concatenated in that order."""
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


def ancestors(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the datasets at the ends of the lineage, those not derived themselves, depth first.

    A dataset without parents is its own ancestor. Each has ``id``, ``recipe`` and ``episodes``.
    """
    parents = manifest["parents"]
    return [end for parent in parents for end in ancestors(parent)] if parents else [manifest]


def origins(dataset: Dataset) -> Int64:
    """Return [episodes, 2]: the number of each episode's ancestor, and its episode number in there.

    Raises UserError (code 3) for a chain of subsets that was written without these numbers.
    """
    parents, arrays = dataset.manifest["parents"], dataset.manifest["arrays"]
    if "ancestor_episode" in arrays:
        return np.stack([dataset.array("ancestor"), dataset.array("ancestor_episode")], axis=1)
    if not parents:
        episodes = np.arange(dataset.n_episodes)
    elif len(parents) == 1 and not parents[0]["parents"]:
        episodes = dataset.array("parent_episode")
    else:
        raise UserError(
            f"{dataset.id}: expected an array 'ancestor_episode', found none; derive it again", CHECK_FAILED
        )
    return np.stack([np.zeros_like(episodes), episodes], axis=1)


def _origins(parts: Sequence[Part]) -> Int64:
    found, before = [], 0
    for part in parts:
        found.append(part.origins + np.array([before, 0]))
        before += len(part.ends)
    return np.concatenate(found)


def _sources(parents: Sequence[Dataset]) -> tuple[list[str], list[Int64], dict[str, Any]]:
    """Return the names of the policies, the new numbers of each parent's policies, and their known facts.

    Policies that share a name but are not known to be the same get their parent's id appended.
    """
    names: list[str] = []
    numbers: list[Int64] = []
    policies: dict[str, Any] = {}
    for parent in parents:
        known, own = _known(parent.manifest), parent.manifest.get("sources", [])
        mine: dict[str, str] = {}
        for name in dict.fromkeys([*own, *known]):
            label, facts = name, known.get(name)
            while label in {*names, *policies} and not (
                name == UNIFORM or (facts and facts == policies.get(label))
            ):
                label += f"@{parent.id}"
            mine[name] = label
        names += [label for name, label in mine.items() if name in own and label not in names]
        policies |= {mine[name]: facts for name, facts in known.items()}
        count = max(len(own), int(parent.array("source").max()) + 1)  # imported data: numbers without names
        if len(parents) > 1:  # ... that must not be confused with another parent's
            nameless = [f"source {i}@{parent.id}" for i in range(len(own), count)]
            own, mine = [*own, *nameless], mine | {name: name for name in nameless}
            names += nameless
        labels = [names.index(mine[own[i]]) if i < len(own) else i for i in range(count)]
        numbers.append(np.array(labels, np.int64))
    return names, numbers, policies


def _known(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about each policy, by its name among the sources. A generated replay buffer has the
    source ``replay``, but its facts under ``medium``, the checkpoint that its training ended with."""
    known, own = dict(manifest.get("policies", {})), manifest.get("sources", [])
    if "replay" in own and "replay" not in known and "medium" not in own and "medium" in known:
        known["replay"] = known.pop("medium")
    return known


def _joined(taken: Sequence[dict[str, NDArray[Any]]], order: Int64) -> dict[str, NDArray[Any]]:
    """Concatenate the parts' arrays and permute the episodes by ``order``."""
    lengths = np.concatenate([np.diff(arrays["offsets"]) for arrays in taken])
    starts = np.cumsum(lengths) - lengths
    steps = _ranges(starts[order], lengths[order])
    rows = _ranges((starts + np.arange(len(starts)))[order], lengths[order] + 1)
    places = {"observations": rows, "actions": steps, "rewards": steps}
    return {
        name: np.concatenate(([0], np.cumsum(lengths[order])))
        if name == "offsets"
        else np.concatenate([arrays[name] for arrays in taken])[places.get(name, order)]
        for name in taken[0]
    }


def _ranges(starts: Int64, lengths: Int64) -> Int64:
    """Return start, start+1, ..., start+length-1 for every pair, concatenated."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
