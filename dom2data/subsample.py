"""Subsampling: some of a dataset's episodes as a new dataset that records its lineage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dom2data import ids, recipes
from dom2data.dataset import Dataset, Int64
from dom2data.derive import Part, derive
from dom2data.errors import UserError
from dom2data.recipes import UNIFORM

STRATA = 10
"""Number of equally large groups, by return, that each policy's episodes are divided into."""


@dataclass(frozen=True)
class Selection:
    """Which episodes to keep: filter by policy, then by return, then draw some of the remaining ones."""

    fraction: float | None = None
    """fraction of the remaining episodes, in (0, 1]"""
    episodes: int | None = None
    """number of episodes; without this and ``fraction``, all remaining ones"""
    quality: str | None = None
    """the name of a policy in the manifest's ``sources``"""
    returns: str | None = None
    """``LOW:HIGH``, both included: team returns, or quantiles of the remaining ones, such as ``90%:100%``"""
    stratified: bool = False
    """draw the same fraction of each policy and of each decile of its returns"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0.0 < self.fraction <= 1.0:
            raise UserError(
                f"expected a fraction in (0, 1], found {self.fraction:g}; 0.05 keeps 5 % of the episodes"
            )
        if self.episodes is not None and self.episodes < 1:
            raise UserError(f"expected --episodes of 1 or more, found {self.episodes}")
        if self.fraction is not None and self.episodes is not None:
            raise UserError("expected --fraction or --episodes, found both; choose one")
        if self.fraction is None and self.episodes is None:
            if not (self.quality or self.returns):
                raise UserError(
                    "expected --fraction, --episodes, --quality or --returns, found none; give one"
                )
            if self.stratified:
                raise UserError(
                    "expected --fraction or --episodes with --stratified, found neither; give one"
                )
        if self.seed < 0:
            raise UserError(f"expected a --seed of 0 or more, found {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """Return the seed and the options that are set. They enter the recipe, so unset ones stay out."""
        said = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return said | {"seed": self.seed}

    def candidates(self, parent: Dataset) -> Int64:
        """Return ascending numbers of the episodes that pass both filters. Raises UserError if none does."""
        kept = np.ones(parent.n_episodes, bool)
        if self.quality is not None:
            names = parent.manifest.get("sources", [])
            if self.quality not in names:
                known = ", ".join(names) or "no policy by name"
                raise UserError(
                    f"{parent.id}: expected a --quality of its own ({known}), found {self.quality!r}"
                )
            kept &= parent.array("source") == names.index(self.quality)
        returns = parent.returns[kept].astype(np.float64)
        if len(returns) == 0:
            raise UserError(f"{parent.id}: expected episodes of {self.quality}, found none; ask for others")
        if self.returns is not None:
            low, high = bounds(self.returns, returns)
            kept &= (parent.returns >= low) & (parent.returns <= high)
        if not kept.any():
            best = f"returns lie in {returns.min():g}:{returns.max():g}"
            raise UserError(f"{parent.id}: expected episodes to keep, found none ({best}); ask for others")
        return np.flatnonzero(kept)

    def indices(self, parent: Dataset) -> Int64:
        """Return ascending numbers of the episodes to keep. Raises UserError if there are too few, or
        like ``candidates``."""
        found = self.candidates(parent)
        if self.episodes is not None and self.episodes > len(found):
            raise UserError(
                f"{parent.id}: expected at most {len(found)} --episodes, found {self.episodes}; "
                "no episode is taken twice"
            )
        share = max(1, int((self.fraction or 1.0) * len(found) + 0.5))
        count = self.episodes if self.episodes is not None else share
        if self.stratified:
            strata = _strata(parent.array("source")[found], parent.returns[found])
            return found[_stratified(strata, count, self.seed)]
        return found[_drawn(len(found), count, self.seed)]


def bounds(text: str, returns: Any) -> tuple[float, float]:
    """Parse ``LOW:HIGH`` as (low, high); either may be omitted; ``%`` marks a quantile of ``returns``.

    Raises UserError for anything else.
    """
    low, colon, high = text.partition(":")
    try:
        values = [
            default if not word
            else float(np.quantile(returns, float(word[:-1]) / 100)) if word.endswith("%")
            else float(word)
            for word, default in ((low.strip(), -np.inf), (high.strip(), np.inf))
        ]  # fmt: skip
    except ValueError:
        values = []
    if not colon or len(values) != 2 or not values[0] <= values[1]:
        raise UserError(f"expected --returns LOW:HIGH, as 50:120 or 90%:100%, lowest first, found {text!r}")
    return values[0], values[1]


def _drawn(episodes: int, count: int, seed: int) -> Int64:
    """Draw episode numbers; for the same seed, a smaller draw is a subset of a larger one."""
    return np.sort(np.random.default_rng(np.random.SeedSequence(seed)).permutation(episodes)[:count])


def _strata(source: Int64, returns: Any) -> Int64:
    """Return each episode's group: its policy, and the decile of its return among that policy's episodes."""
    strata = np.zeros(len(source), np.int64)
    for number in np.unique(source):
        mine = np.flatnonzero(source == number)
        ranks = np.argsort(np.argsort(returns[mine], kind="stable"), kind="stable")
        strata[mine] = number * STRATA + ranks * STRATA // len(mine)
    return strata


def _stratified(strata: Int64, count: int, seed: int) -> Int64:
    """Return ascending positions of ``count`` episodes, proportional per group up to one episode.

    The shuffled groups are concatenated, and every (len / count)-th episode is taken.
    """
    shuffled = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(strata))
    line = shuffled[np.argsort(strata[shuffled], kind="stable")]
    places = ((np.arange(count) + 0.5) * len(strata) / count).astype(np.int64)
    return np.sort(line[places])


def default_id(parent: str, selection: Selection) -> str:
    """Return an id that names every option set: ``dom2/tag-medium-5pct-v0`` for ``dom2/tag-medium-v0``."""
    space, name, version = ids.split(parent)
    words = [name]
    if selection.quality is not None:
        words.append(selection.quality)
    if selection.returns is not None:
        low, _, high = selection.returns.replace("%", "pct").replace("-", "m").partition(":")
        words.append("returns" + (low and f"-from-{low}") + (high and f"-to-{high}"))
    if selection.stratified:
        words.append("stratified")
    if selection.fraction is not None:
        words.append(f"{100 * selection.fraction:.6g}pct".replace("-", "m"))
    if selection.episodes is not None:
        words.append(f"{selection.episodes}ep")
    if selection.seed:
        words.append(f"s{selection.seed}")
    plain = "".join(
        letter for letter in "-".join(words).replace(".", "p") if letter.isalnum() or letter in "-_"
    )
    return f"{space}/{plain}-v{version or 0}"


def subsample(
    parent: Dataset,
    fraction: float | None = None,
    *,
    seed: int = 0,
    selection: Selection | None = None,
    out: str | None = None,
    root: str | Path | None = None,
    force: bool = False,
) -> Dataset:
    """Keep whole episodes of ``parent``, in order: a ``fraction`` drawn by ``seed``, or a ``selection``.

    The array ``parent_episode`` [episodes] holds their numbers in the parent.
    Raises ValueError when both are given, and UserError like ``Selection``, ``derive`` and ``generate``.
    """
    if selection is not None and (fraction is not None or seed):
        raise ValueError(
            "expected a fraction and its seed or a selection, which has both, found them beside it"
        )
    selection = selection or Selection(fraction=fraction, seed=seed)
    chosen, asked = selection.indices(parent), selection.to_json()
    target = ids.full(out) if out else default_id(parent.id, selection)
    recipe = {"operation": "subsample", "parent": parent.hash, **asked, "versions": recipes.versions()}
    policy = "random" if selection.quality == UNIFORM else selection.quality
    quality = policy if policy in recipes.QUALITIES else parent.quality
    parts = [Part(parent, chosen, asked)]
    return derive(parts, np.arange(len(chosen)), target, recipe, quality, root, force)
