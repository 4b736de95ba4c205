"""Mixing: episodes of several datasets in a given ratio, as a new dataset that records its lineage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dom2data import ids, recipes
from dom2data.collect import interleaved, share
from dom2data.dataset import Dataset, Int64
from dom2data.derive import Part, derive
from dom2data.errors import UserError
from dom2data.spec import differences


def mix(
    parents: Sequence[Dataset],
    ratio: Sequence[float],
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str | None = None,
    root: str | Path | None = None,
    force: bool = False,
) -> Dataset:
    """Mix whole episodes of ``parents``, drawn by ``seed``, in proportion to ``ratio`` (with any sum).

    ``episodes`` is the total number. With ``steps`` the ratio applies to steps: each parent contributes
    episodes until its share is reached. With neither, the mixture is as large as possible without repeating
    an episode. The arrays ``parent`` and ``parent_episode`` record where each episode came from. Every prefix
    of the mixture has nearly the requested ratio. Raises UserError for fewer than two parents, different
    environments, a ratio that is not positive, more than a parent has, or an episode drawn from two parents.
    """
    _check(parents, ratio, episodes, steps, seed)
    shuffled = [
        np.random.default_rng(child).permutation(parent.n_episodes)
        for child, parent in zip(np.random.SeedSequence(seed).spawn(len(parents)), parents, strict=True)
    ]
    if steps is not None:
        each = zip(parents, shuffled, share(ratio, 0, steps), strict=True)
        counts = tuple(_until(parent, order, wanted) for parent, order, wanted in each)
    else:
        counts = _counts([parent.n_episodes for parent in parents], ratio, episodes)
    for parent, count in zip(parents, counts, strict=True):
        if not 1 <= count <= parent.n_episodes:
            raise UserError(
                f"{parent.id}: expected to take 1 to {parent.n_episodes} episodes, found {count} asked for; "
                "no episode is taken twice: mix fewer, or another ratio"
            )
    weights = [weight / sum(ratio) for weight in ratio]
    parts = [
        Part(parent, np.sort(order[:count]), {"ratio": weight, "seed": seed})
        for parent, order, count, weight in zip(parents, shuffled, counts, weights, strict=True)
    ]
    _require_once(parts)
    recipe = {
        "operation": "mix",
        "parents": [parent.hash for parent in parents],
        "ratio": weights,
        "episodes": episodes,
        "steps": steps,
        "seed": seed,
        "versions": recipes.versions(),
    }
    target = ids.full(out) if out else default_id(parents, weights, seed)
    quality = "+".join(dict.fromkeys(parent.quality or "other" for parent in parents))
    return derive(parts, interleaved(counts), target, recipe, quality, root, force)


def _check(
    parents: Sequence[Dataset], ratio: Sequence[float], episodes: int | None, steps: int | None, seed: int
) -> None:
    if len(parents) < 2 or len({parent.id for parent in parents}) < len(parents):
        raise UserError("expected two or more different datasets to mix; `dom2data subsample` cuts one")
    if not all(0 < weight < np.inf for weight in ratio):
        raise UserError(f"expected a positive ratio, found {':'.join(f'{weight:g}' for weight in ratio)}")
    if episodes is not None and steps is not None:
        raise UserError("expected --episodes or --steps, found both; choose one")
    if min(episodes or 1, steps or 1) < 1 or 0 in (episodes, steps) or seed < 0:
        raise UserError("expected --episodes or --steps of 1 or more and a --seed of 0 or more, found less")
    for parent in parents[1:]:
        if parent.spec != parents[0].spec:
            found = differences(parents[0].spec.to_json(), parent.spec.to_json())
            changed = found[0][0] if found[0][0] != "facts" else differences(found[0][1], found[0][2])[0][0]
            raise UserError(
                f"expected datasets of one environment, found {parents[0].id} and {parent.id}, which differ "
                f"in {changed}; `dom2data diff {parents[0].id} {parent.id}` says more"
            )


def _require_once(parts: Sequence[Part]) -> None:
    """Raises UserError if an episode was drawn from two parents, one of which is derived from the other, or
    both from a third dataset."""
    known: dict[str, int] = {}
    drawn: list[Int64] = []
    for part in parts:
        ends = [known.setdefault(end["hash"], len(known)) for end in part.ends]
        number, episode = part.origins.T
        drawn.append(np.array(ends)[number] << 40 | episode)
    for (one, mine), (other, theirs) in itertools.combinations(zip(parts, drawn, strict=True), 2):
        if both := len(np.intersect1d(mine, theirs)):
            raise UserError(
                f"expected every episode in one dataset alone, found {both:,} in both {one.parent.id} and "
                f"{other.parent.id}; mix what they were made of, or subsample apart (--quality, --returns)"
            )


def _counts(have: Sequence[int], ratio: Sequence[float], episodes: int | None) -> tuple[int, ...]:
    """Return the number of episodes per parent; without a total number, the most that the ratio allows."""
    if episodes is not None:
        return share(ratio, 0, episodes)
    total = int(min(n * sum(ratio) / weight for n, weight in zip(have, ratio, strict=True)) + 1e-9)
    while any(count > n for count, n in zip(share(ratio, 0, total), have, strict=True)):
        total -= 1  # rounding may ask for one too many
    return share(ratio, 0, total)


def _until(parent: Dataset, order: Int64, steps: int) -> int:
    """Return how many episodes, in this order, reach ``steps``; one more than exist if all are too few."""
    ends: NDArray[np.int64] = np.cumsum(parent.lengths[order])
    return int(np.searchsorted(ends, steps)) + 1


def default_id(parents: Sequence[Dataset], weights: Sequence[float], seed: int) -> str:
    """Return ``dom2/tag-mix-medium70-expert30-v0`` for 0.7 ``tag-medium`` and 0.3 ``tag-expert``."""
    env = ids.split(parents[0].spec.env_id)[1]
    shorts = [ids.split(parent.id)[1].removeprefix(f"{env}-") for parent in parents]
    percents = [f"{100 * weight:.4g}".replace(".", "p").replace("-", "m") for weight in weights]
    words = [f"{short}{percent}" for short, percent in zip(shorts, percents, strict=True)]
    return f"{ids.NAMESPACE}/{env}-mix-{'-'.join(words)}" + (f"-s{seed}" if seed else "") + "-v0"
