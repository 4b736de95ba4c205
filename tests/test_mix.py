"""Mixtures: the ratio, nothing twice, where every episode comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import dom2data
from small_datasets import in_memory, stored

from dom2data import derive
from dom2data.derive import ancestors, origins
from dom2data.errors import UserError
from dom2data.mix import mix
from dom2data.subsample import Selection, subsample
from dom2data.verify import verify

LENGTHS = [4, 3, 4, 2, 4, 4, 1, 4, 4, 4]


def test_every_episode_is_its_parents(tmp_path: Path) -> None:
    parents = [stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    mixed = mix(parents, [0.7, 0.3], episodes=10, seed=3, root=tmp_path, out="ab")
    assert (mixed.n_episodes, np.bincount(mixed.array("parent")).tolist()) == (10, [7, 3])
    there = [list(parent.episodes()) for parent in parents]
    for episode, of, number in zip(
        mixed.episodes(), mixed.array("parent"), mixed.array("parent_episode"), strict=True
    ):
        expected = there[of][number]
        for field in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(episode, field), getattr(expected, field))
        assert (episode.terminated, episode.truncated) == (expected.terminated, expected.truncated)
    pairs = list(zip(mixed.array("parent"), mixed.array("parent_episode"), strict=True))
    assert len(set(pairs)) == 10
    assert "lineage" in verify(mixed)
    assert [p["hash"] for p in mixed.manifest["parents"]] == [p.hash for p in parents]
    assert mixed.returns.mean() == pytest.approx(mixed.manifest["returns"]["team"]["mean"])
    again = mix(parents, [7, 3], episodes=10, seed=3, root=tmp_path, out="again")
    assert again.hash == mixed.hash
    assert mix(parents, [7, 3], episodes=10, seed=4, root=tmp_path, out="other").hash != mixed.hash


def test_every_parent_is_traced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = [stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    traced: list[str] = []
    monkeypatch.setattr(derive, "origins", lambda parent: traced.append(parent.id) or origins(parent))
    mix(parents, [1, 1], root=tmp_path)
    assert traced == [parent.id for parent in parents]


def test_any_beginning_holds_nearly_the_ratio(tmp_path: Path) -> None:
    parents = [stored(tmp_path, [4] * 60, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    mixed = mix(parents, [0.75, 0.25], root=tmp_path)
    assert mixed.id == "dom2/tag-mix-a75-b25-v0"
    assert np.bincount(mixed.array("parent")).tolist() == [60, 20]  # as many as there are
    share = np.cumsum(mixed.array("parent") == 0) / np.arange(1, 81)
    assert (np.abs(share[10:] - 0.75) < 0.05).all()


def test_by_steps(tmp_path: Path) -> None:
    """Episodes of different lengths: the ratio then holds between steps, to one episode."""
    parents = [stored(tmp_path, [4] * 10, name="long"), stored(tmp_path, [1] * 30, name="short", seed=1)]
    mixed = mix(parents, [1, 1], steps=32, root=tmp_path)
    assert np.bincount(mixed.array("parent"), weights=mixed.lengths).tolist() == [16, 16]


def test_the_chain_is_followed_to_its_ends(tmp_path: Path) -> None:
    a, b, c = (
        stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))
    )
    ab = mix([a, b], [1, 1], episodes=12, root=tmp_path)
    part = subsample(ab, 0.5, root=tmp_path)
    both = mix([part, c], [1, 1], episodes=6, root=tmp_path, out="both")
    # ``stored`` is itself a subset of a dataset in memory, so these are the ends.
    assert [end["id"] for end in ancestors(both.manifest)] == ["memory/small-v0"] * 3
    of, number = origins(both).T
    ends = [list(in_memory(LENGTHS, seed=seed).episodes()) for seed in (1, 2, 3)]
    for episode, end, i in zip(both.episodes(), of, number, strict=True):
        np.testing.assert_array_equal(episode.actions, ends[end][i].actions)
    assert set(of) <= {0, 1, 2}
    assert verify(both)


def test_policies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    a, b, c = (
        stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))
    )
    for parent, weights in ((a, "x"), (b, "y"), (c, "x")):
        parent.manifest |= {"sources": ["medium"], "policies": {"medium": {"sha256": weights}}}
    mixed = mix([a, b, c], [1, 1, 1], root=tmp_path, out="abc")
    assert mixed.manifest["sources"] == ["medium", "medium@dom2/b-v0"]
    assert mixed.manifest["policies"]["medium@dom2/b-v0"] == {"sha256": "y"}
    np.testing.assert_array_equal(mixed.array("source"), np.array([0, 1, 0])[mixed.array("parent")])


def test_a_replay_buffer_is_not_the_checkpoint_that_it_ended_with(tmp_path: Path) -> None:
    replay, other, medium = (
        stored(tmp_path, LENGTHS, name=name, seed=seed)
        for name, seed in (("replay", 1), ("other", 2), ("medium", 3))
    )
    for parent, seed in ((replay, 0), (other, 1)):  # as ``generate`` writes them
        parent.manifest |= {"sources": ["replay"], "policies": {"medium": {"seed": seed}}}
    medium.manifest |= {"sources": ["medium"], "policies": {"medium": {"sha256": "x"}}}
    expected = {"replay": {"seed": 0}, "medium": {"sha256": "x"}, "replay@dom2/other-v0": {"seed": 1}}
    for parents in ([replay, medium, other], [medium, replay, other]):
        mixed = mix(parents, [1, 1, 1], root=tmp_path, out="all", force=True)
        assert mixed.manifest["policies"] == expected
        assert list(dict.fromkeys(mixed.manifest["sources"])) == mixed.manifest["sources"]
        assert set(mixed.manifest["sources"]) == set(expected)
        np.testing.assert_array_equal(mixed.array("source"), mixed.array("parent"))
    more = stored(tmp_path / "elsewhere", LENGTHS, name="other", seed=4)  # of the same policy
    more.manifest |= {"sources": ["replay"], "policies": {"medium": {"seed": 1}}}
    again = mix([mixed, more], [1, 1], root=tmp_path, out="again")
    assert again.manifest["sources"] == ["medium", "replay", "replay@dom2/other-v0"]
    assert again.manifest["policies"] == expected


def test_policies_without_a_name_are_not_another_s(tmp_path: Path) -> None:
    a, b = (stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    a.manifest |= {"sources": ["npz"], "policies": {}}
    a.array("source")[:] = np.arange(len(LENGTHS)) % 3
    b.manifest |= {"sources": ["medium"], "policies": {}}
    for parents in ([a, b], [b, a]):
        mixed = mix(parents, [1, 1], root=tmp_path, out="ab", force=True)
        names = np.array(mixed.manifest["sources"])[mixed.array("source")]
        own = np.array(["npz", "source 1@dom2/a-v0", "source 2@dom2/a-v0"])
        expected = own[a.array("source")[mixed.array("parent_episode")]]
        from_b = mixed.array("parent") == parents.index(b)
        assert names.tolist() == np.where(from_b, "medium", expected).tolist()


def test_policies_of_which_nothing_is_known_are_told_apart(tmp_path: Path) -> None:
    a, b = (stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    for parent in (a, b):
        parent.manifest |= {"sources": ["omar", "uniform"], "policies": {}}
        parent.array("source")[5:] = 1
    mixed = mix([a, b], [1, 1], root=tmp_path, out="ab")
    assert mixed.manifest["sources"] == ["omar", "uniform", "omar@dom2/b-v0"]
    uniform = mixed.array("parent_episode") >= 5
    np.testing.assert_array_equal(mixed.array("source"), np.where(uniform, 1, 2 * mixed.array("parent")))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"ratio": [1, 1], "episodes": 1000}, "no episode is taken twice"),
        ({"ratio": [1, 1], "steps": 1000}, "no episode is taken twice"),
        ({"ratio": [1, -1]}, "expected a positive ratio"),
        ({"ratio": [1, 0]}, "expected a positive ratio"),
        ({"ratio": [1, float("nan")]}, "expected a positive ratio"),
        ({"ratio": [1, 1], "episodes": 0}, "of 1 or more"),
        ({"ratio": [1, 1], "steps": 5, "episodes": 5}, "found both"),
        ({"ratio": [1, 1], "seed": -1}, "of 1 or more"),
        ({"ratio": [1e9, 1]}, "expected to take 1 to"),
    ],
)
def test_what_cannot_be_mixed(tmp_path: Path, how: dict, expected: str) -> None:  # type: ignore[type-arg]
    parents = [stored(tmp_path, LENGTHS, name="a"), stored(tmp_path, LENGTHS, name="b", seed=1)]
    ratio = how.pop("ratio")
    with pytest.raises(UserError, match=expected) as error:
        mix(parents, ratio, root=tmp_path, out="ab", **how)
    assert (error.value.code, "\n" in str(error.value)) == (2, False)
    assert not (tmp_path / "dom2" / "ab-v0").exists()


def test_no_episode_comes_twice(tmp_path: Path) -> None:
    a, b = (stored(tmp_path, LENGTHS, name=name, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    half = subsample(a, 0.5, root=tmp_path, out="half")
    for parents, found in (
        ([a, half], r"found \d+ in both dom2/a-v0 and dom2/half-v0"),
        ([b, half, mix([a, b], [1, 1], root=tmp_path, out="ab")], "in both dom2/b-v0 and dom2/ab-v0"),
    ):
        with pytest.raises(UserError, match=found):
            mix(parents, [1] * len(parents), root=tmp_path, out="twice")
    low, high = (
        subsample(a, selection=Selection(returns=each), root=tmp_path, out=f"part-{i}")
        for i, each in enumerate(("0%:40%", "60%:100%"))
    )
    assert mix([low, high], [1, 1], root=tmp_path, out="once").n_episodes > 2


def test_another_environment_is_refused(tmp_path: Path) -> None:
    parents = [stored(tmp_path, LENGTHS, name="a"), stored(tmp_path, [5] * 3, name="b", horizon=5)]
    with pytest.raises(UserError, match=r"expected datasets of one environment.*differ in horizon"):
        mix(parents, [1, 1], root=tmp_path)
    with pytest.raises(UserError, match="two or more different datasets"):
        mix([parents[0], parents[0]], [1, 1], root=tmp_path)


def test_the_command(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        stored(tmp_path, LENGTHS, name=name, seed=seed)
    made = dom2data("mix", "a:0.7", "b:0.3", "--episodes", "10", "--root", tmp_path)
    assert made.exit_code == 0, made.stderr
    assert "7 of 10 episodes of dom2/a-v0" in made.stderr
    assert "dom2/tag-mix-a70-b30-v0" in made.stdout
    wrong = dom2data("mix", "a:x", "b", "--root", tmp_path)
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: expected ID:RATIO, as tag-medium:0.7, found 'a:x'\n",
    )
