"""A dataset as a value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_datasets import in_memory, spec, stored

from dom2data.dataset import from_arrays
from dom2data.dataset import open as open_dataset
from dom2data.errors import UserError
from dom2data.subsample import subsample
from dom2data.verify import verify

LENGTHS = [4, 2, 4, 1]


def test_episodes_are_views_with_one_observation_more_than_actions() -> None:
    dataset = in_memory(LENGTHS)
    episodes = list(dataset.episodes())
    assert [len(e.actions) for e in episodes] == LENGTHS
    for i, (episode, length) in enumerate(zip(episodes, LENGTHS, strict=True)):
        np.testing.assert_array_equal(episode.observations[:, 0, 0], np.arange(length + 1))
        assert (episode.observations[..., 1] == i).all()
        assert episode.observations.base is not None
        assert (episode.terminated, episode.truncated) == (length < 4, length == 4)
    np.testing.assert_array_equal(np.concatenate([e.rewards for e in episodes]), dataset.array("rewards"))


@pytest.mark.parametrize("reward", ["individual", "shared"])
def test_returns_of_team_and_agents(reward: str) -> None:
    dataset = in_memory(LENGTHS, reward=reward)
    for i, episode in enumerate(dataset.episodes()):
        each = episode.rewards.sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(dataset.agent_returns[i], each, rtol=1e-6)
        np.testing.assert_allclose(
            dataset.returns[i], each[0] if reward == "shared" else each.mean(), rtol=1e-5
        )


def test_returns_are_those_of_the_rewards_that_are_kept(tmp_path: Path) -> None:
    small = in_memory(LENGTHS)
    rewards = np.random.default_rng(0).normal(size=(11, 3))
    arrays = (small.array(name) for name in ("observations", "actions"))
    made = from_arrays(small.spec, *arrays, rewards, small.offsets, terminated=small.array("terminated"))
    verify(subsample(made, 1.0, out="kept", root=tmp_path))


def test_arrays_are_read_once_and_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, LENGTHS)
    from dom2data.store import zarr

    read, names = zarr.read_array, []
    monkeypatch.setattr(
        zarr, "read_array", lambda data, name, *how: names.append(name) or read(data, name, *how)
    )
    dataset = open_dataset("small", tmp_path)
    assert (len(dataset), dataset.n_episodes, names) == (11, 4, [])
    assert dataset.returns is dataset.returns
    assert names == ["returns"]


def test_a_dataset_replaced_since_it_was_opened_is_not_mixed_with_the_old(tmp_path: Path) -> None:
    opened = stored(tmp_path, LENGTHS)
    opened.array("actions")
    subsample(in_memory(LENGTHS, seed=1), 1.0, out="small", root=tmp_path, force=True)
    assert opened.array("actions").shape == (11, 3, 2)
    with pytest.raises(UserError, match="found it replaced"):
        opened.array("rewards")


def test_opening_a_dataset_imports_nothing_heavy(tmp_path: Path) -> None:
    stored(tmp_path, LENGTHS)
    code = "import sys; from dom2data.dataset import open; d = open('small', sys.argv[1])"
    code += "; print(len(d), *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    modules = run.stdout.split()
    assert modules[0] == "11"
    assert not {"torch", "zarr", "numba", "minari", "scipy", "matplotlib", "click"} & set(modules)


@pytest.mark.parametrize(
    ("name", "shape", "offsets"),
    [
        ("observations", (7, 3, 5), [0, 4, 6]),  # one row per step instead of one more per episode
        ("actions", (6, 3, 1), [0, 4, 6]),
        ("rewards", (6, 2), [0, 4, 6]),
        (None, None, [0, 4, 5]),
        (None, None, [0, 0, 6]),
        (None, None, [1, 4, 6]),
        (None, None, [0, 4, 9]),
        (None, None, [0]),
        ("rewards", (4, 3), [0, 4, 6]),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    name: str | None, shape: tuple[int, ...] | None, offsets: list[int]
) -> None:
    shapes = {"observations": (8, 3, 5), "actions": (6, 3, 2), "rewards": (6, 3)}
    arrays = {key: np.zeros(shape if key == name else usual, np.float32) for key, usual in shapes.items()}
    with pytest.raises(ValueError, match="expected"):
        from_arrays(spec(), **arrays, offsets=np.array(offsets))
