"""Whole episodes, chosen by a seed, with their lineage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import in_memory, stored

from dom2data.errors import UserError
from dom2data.store.manifest import digest
from dom2data.subsample import Selection, choose, default_id, subsample, take
from dom2data.verify import verify


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.floats(0.01, 1.0), st.integers(0, 5))
def test_episodes_are_taken_whole_and_in_order(lengths: list[int], fraction: float, seed: int) -> None:
    parent = in_memory(lengths)
    chosen = choose(len(lengths), fraction, seed)
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
    assert choose(10, 0.5, 0).tolist() == choose(10, 0.5, 0).tolist()
    assert choose(100, 0.5, 0).tolist() != choose(100, 0.5, 1).tolist()
    assert set(choose(100, 0.05, 0)) < set(choose(100, 0.5, 0))
    assert choose(100, 1.0, 7).tolist() == list(range(100))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_fraction_outside_0_1_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"expected a fraction in \(0, 1\], found") as error:
        choose(10, fraction, 0)
    assert error.value.code == 2


def test_lineage(tmp_path: Path) -> None:
    parent = stored(tmp_path, [4, 3, 4, 2, 1, 4])
    child = subsample(parent, 0.5, seed=1, root=tmp_path)
    grandchild = subsample(child, 0.5, root=tmp_path)
    assert child.id == "dom2/small-50pct-s1-v0"
    assert grandchild.id == "dom2/small-50pct-s1-50pct-v0"
    (lineage,) = child.manifest["parents"]
    chosen = choose(6, 0.5, 1)
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
