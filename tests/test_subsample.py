"""Whole episodes, chosen by a seed, with their lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import in_memory, stored

from dom2data.derive import take
from dom2data.errors import UserError
from dom2data.store.manifest import digest
from dom2data.subsample import Selection, default_id, subsample
from dom2data.verify import verify


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.floats(0.01, 1.0), st.integers(0, 5))
def test_episodes_are_taken_whole_and_in_order(lengths: list[int], fraction: float, seed: int) -> None:
    parent = in_memory(lengths)
    chosen = Selection(fraction=fraction, seed=seed).indices(parent)
    assert len(chosen) == max(1, int(fraction * len(lengths) + 0.5))
    assert (np.diff(chosen) > 0).all()
    arrays, episodes = take(parent, chosen), list(parent.episodes())
    np.testing.assert_array_equal(
        arrays["observations"], np.concatenate([episodes[i].observations for i in chosen])
    )
    np.testing.assert_array_equal(arrays["actions"], np.concatenate([episodes[i].actions for i in chosen]))
    np.testing.assert_array_equal(arrays["rewards"], np.concatenate([episodes[i].rewards for i in chosen]))
    np.testing.assert_array_equal(np.diff(arrays["offsets"]), np.array(lengths)[chosen])
    np.testing.assert_array_equal(arrays["terminated"], [episodes[i].terminated for i in chosen])


def test_the_choice_is_fixed_by_the_seed_and_nested() -> None:
    parent = in_memory([1] * 100)

    def chosen(fraction: float, seed: int = 0) -> list[int]:
        return Selection(fraction=fraction, seed=seed).indices(parent).tolist()

    assert chosen(0.5) == chosen(0.5) != chosen(0.5, seed=1)
    assert set(chosen(0.05)) < set(chosen(0.5))
    assert chosen(1.0, seed=7) == list(range(100))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_fraction_outside_0_1_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"expected a fraction in \(0, 1\], found") as error:
        Selection(fraction=fraction)
    assert error.value.code == 2


def test_lineage(tmp_path: Path) -> None:
    parent = stored(tmp_path, [4, 3, 4, 2, 1, 4])
    child = subsample(parent, 0.5, seed=1, root=tmp_path)
    grandchild = subsample(child, 0.5, root=tmp_path)
    assert child.id == "dom2/small-50pct-s1-v0"
    assert grandchild.id == "dom2/small-50pct-s1-50pct-v0"
    (lineage,) = child.manifest["parents"]
    chosen = Selection(fraction=0.5, seed=1).indices(parent)
    assert (lineage["id"], lineage["hash"], lineage["seed"], lineage["fraction"]) == (
        parent.id,
        parent.hash,
        1,
        0.5,
    )
    assert lineage["indices_hash"] == digest(chosen.tobytes())
    np.testing.assert_array_equal(child.array("parent_episode"), chosen)
    assert grandchild.manifest["parents"][0]["parents"][0]["hash"] == parent.hash
    assert (child.env, child.quality, child.spec) == (parent.env, parent.quality, parent.spec)
    assert child.hash == subsample(parent, 0.5, seed=1, out="again", root=tmp_path).hash
    assert verify(child)


def test_a_parent_is_never_its_own_target(tmp_path: Path) -> None:
    parent = stored(tmp_path, [4, 4])
    with pytest.raises(UserError, match="another id than the parent's"):
        subsample(parent, 0.5, out="small", root=tmp_path, force=True)
    assert verify(parent)


@pytest.mark.parametrize(
    ("fraction", "seed", "name"),
    [
        (0.05, 0, "dom2/x-5pct-v3"),
        (0.125, 0, "dom2/x-12p5pct-v3"),
        (1.0, 2, "dom2/x-100pct-s2-v3"),
        (1e-7, 0, "dom2/x-1em05pct-v3"),
    ],
)
def test_default_ids(fraction: float, seed: int, name: str) -> None:
    assert default_id("dom2/x-v3", Selection(fraction=fraction, seed=seed)) == name


def test_by_policy_return_and_number(tmp_path: Path) -> None:
    parent = stored(tmp_path, [4] * 20)
    parent.manifest["sources"] = ["medium", "expert"]
    parent.array("source")[10:] = 1
    expert = subsample(parent, selection=Selection(quality="expert"), root=tmp_path)
    assert (expert.id, expert.quality, expert.n_episodes) == ("dom2/small-expert-v0", "expert", 10)
    np.testing.assert_array_equal(expert.array("parent_episode"), np.arange(10, 20))
    best = subsample(parent, selection=Selection(returns="75%:"), root=tmp_path)
    assert best.id == "dom2/small-returns-from-75pct-v0"
    assert sorted(best.returns) == sorted(parent.returns)[15:]
    low, high = np.sort(parent.returns)[[3, 7]]
    middle = subsample(parent, selection=Selection(returns=f"{low}:{high}"), root=tmp_path, out="middle")
    assert sorted(middle.returns) == sorted(parent.returns)[3:8]
    few = subsample(parent, selection=Selection(quality="expert", returns="50%:", episodes=3), root=tmp_path)
    assert few.n_episodes == 3
    assert (few.array("parent_episode") >= 10).all()
    assert few.returns.min() >= np.median(parent.returns[10:])
    for child in (expert, best, middle, few):
        assert verify(child)
        assert child.manifest["returns"]["team"]["mean"] == pytest.approx(child.returns.mean(), rel=1e-6)


def test_the_range_told_is_that_of_the_policy() -> None:
    parent = in_memory([4] * 20)
    parent.manifest["sources"] = ["medium", "expert", "unused"]
    parent.array("source")[10:] = 1
    own = parent.returns[10:]
    with pytest.raises(UserError) as error:
        Selection(quality="expert", returns="1e9:").indices(parent)
    assert f"found none (returns lie in {own.min():g}:{own.max():g})" in str(error.value)
    assert (own.min(), own.max()) != (parent.returns.min(), parent.returns.max())
    with pytest.raises(UserError, match="expected episodes of unused, found none"):
        Selection(quality="unused", returns="1e9:").indices(parent)


@given(st.integers(1, 60), st.integers(0, 3), st.integers(10, 60))
def test_strata_keep_their_shares(count: int, seed: int, first: int) -> None:
    """Of every policy, and of every tenth of its returns, the share of the whole to one episode."""
    parent = in_memory([4] * 60)
    parent.array("source")[first:] = 1
    parent.manifest["sources"] = ["medium", "expert"]
    kept = Selection(episodes=count, stratified=True, seed=seed).indices(parent)
    assert len(set(kept.tolist())) == count
    assert (np.diff(kept) > 0).all()
    for of, size in ((parent.array("source") == 0, first), (parent.array("source") == 1, 60 - first)):
        assert abs(of[kept].sum() - count * size / 60) < 1 + 1e-9
    ranks = np.argsort(np.argsort(parent.returns[:first], kind="stable"))
    low = np.flatnonzero(ranks * 10 // first < 5)
    assert abs(np.isin(kept, low).sum() - count * len(low) / 60) < 1 + 1e-9


def test_fewer_than_there_are_strata_lie_evenly_among_them() -> None:
    parent = in_memory([4] * 60)
    tenth = np.argsort(np.argsort(parent.returns)) * 10 // 60
    for seed in range(3):
        kept = Selection(episodes=5, stratified=True, seed=seed).indices(parent)
        assert sorted(tenth[kept]) == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "expected --fraction, --episodes, --quality or --returns, found none"),
        ({"fraction": 0.5, "episodes": 3}, "found both"),
        ({"episodes": 0}, "of 1 or more"),
        ({"episodes": 7}, "expected at most 6 --episodes, found 7"),
        ({"quality": "expret"}, "expected a --quality of its own"),
        ({"returns": "5"}, "expected --returns LOW:HIGH"),
        ({"returns": "a:b"}, "expected --returns LOW:HIGH"),
        ({"returns": "9:1"}, "lowest first"),
        ({"returns": "nan:"}, "expected --returns LOW:HIGH"),
        ({"returns": "200%:"}, "expected --returns LOW:HIGH"),
        ({"returns": "1e9:"}, "expected episodes to keep, found none"),
        ({"returns": "0%:", "stratified": True}, "found neither"),
    ],
)
def test_what_cannot_be_kept(asked: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        Selection(**asked).indices(in_memory([4] * 6))
    assert error.value.code == 2


def test_ids_say_what_was_asked_for() -> None:
    asked = Selection(episodes=5, quality="expert", returns="-5.5:90%", stratified=True, seed=3)
    assert default_id("dom2/x-v3", asked) == "dom2/x-expert-returns-from-m5p5-to-90pct-stratified-5ep-s3-v3"
