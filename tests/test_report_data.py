"""The page about a dataset, and the numbers on it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from commands import dom2data
from pages import Page
from PIL import Image
from small_datasets import in_memory, spec, stored
from tiny import tag_random

from dom2data import dataset, ids
from dom2data.dataset import Dataset, from_arrays
from dom2data.look import coverage, lints, report


def made(observations: np.ndarray, actions: np.ndarray, lengths: list[int]) -> Dataset:
    """A dataset of given observations [S+P, 3, 5] and actions [S, 3, 2]."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    rewards = np.zeros(actions.shape[:2], np.float32)
    return from_arrays(spec(), observations, actions, rewards, offsets)


def test_page_is_self_contained_and_says_what_is_stored(tmp_path: Path) -> None:
    found = dataset.open(tag_random())
    path = tmp_path / "page.html"
    report.write(found, ids.root(), path)
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert all(link.startswith("data:image/") for link in page.links)
    gifs = [link for link in page.links if link.startswith("data:image/gif")]
    assert [Image.open(io.BytesIO(base64.b64decode(g.split(",")[1]))).n_frames for g in gifs] == [26] * 3
    assert found.hash in text
    assert f"{found.returns.mean():.1f}" in text
    assert "uniform" in text
    assert not list(tmp_path.glob("*.partial"))


def test_page_of_an_environment_without_pictures(tmp_path: Path) -> None:
    found = stored(tmp_path / "root", [4, 2, 4, 3])
    path = tmp_path / "page.html"
    report.write(found, tmp_path / "root", path)
    text = path.read_text()
    assert Page(text).open == []
    assert "No pictures:" in text
    assert "principal components" in text


def test_page_names_every_copy(tmp_path: Path) -> None:
    once = in_memory([4, 3])
    arrays = once.arrays()
    twice = from_arrays(
        once.spec,
        *(np.concatenate([arrays[n]] * 2) for n in ("observations", "actions", "rewards")),
        np.array([0, 4, 7, 11, 14]),
        env="tag",
    )
    found = lints.lints(twice)
    assert (found.duplicate_episodes, found.duplicate_starts, found.duplicate_steps) == (2, 2, 7)
    assert lints.lints(once).duplicate_episodes == 0


def test_a_step_that_differs_in_one_bit_is_no_copy() -> None:
    observations = np.zeros((4, 3, 5), np.float32)
    observations[2, 1, 3] = np.float32(1e-45)  # the smallest number above 0
    found = lints.lints(made(observations, np.zeros((2, 3, 2), np.float32), [1, 1]))
    assert (found.duplicate_steps, found.duplicate_starts, found.duplicate_episodes) == (0, 0, 0)


def test_the_same_steps_in_another_order_are_another_episode() -> None:
    forth = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 3, 5), np.float32)
    observations = np.concatenate([forth, forth[[1, 0, 2]]])
    found = lints.lints(made(observations, np.zeros((4, 3, 2), np.float32), [2, 2]))
    assert (found.duplicate_steps, found.duplicate_episodes) == (2, 0)


def test_bounds_and_constants() -> None:
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(6, 3, 5)).astype(np.float32)
    observations[:, 1, 2] = 7.0
    actions = rng.uniform(-0.9, 0.9, (5, 3, 2)).astype(np.float32)
    actions[:2, 0, 0], actions[0, 2] = 1.0, -1.0
    found = lints.lints(made(observations, actions, [5]))
    assert found.clipped == {"a": 0.2, "b": 0.0, "c": 0.2}
    assert found.constant == {"a": [], "b": [2], "c": []}


def test_share_of_the_action_box() -> None:
    rng = np.random.default_rng(0)
    whole = coverage.effective_share(rng.uniform(-1, 1, (100_000, 2)), -1.0, 1.0)
    half = coverage.effective_share(rng.uniform(-1, 1, (100_000, 2)) * [0.5, 1.0], -1.0, 1.0)
    assert whole == pytest.approx(1.0, abs=0.01)
    assert half == pytest.approx(0.5, abs=0.01)
    assert coverage.effective_share(np.zeros((100, 2)), -1.0, 1.0) == pytest.approx(1 / 400)
    assert coverage.effective_share(rng.uniform(-1, 1, (100_000, 3)), -1.0, 1.0) == pytest.approx(
        1.0, abs=0.01
    )


def test_dimensions() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50_000, 2))
    same = plane[:, [0, 0, 0, 1, 1, 1]] * [1, 5, -2, 1, 1, 9]
    assert coverage.effective_dimensions(same) == pytest.approx(2.0, abs=0.01)
    assert coverage.effective_dimensions(rng.normal(size=(50_000, 6))) == pytest.approx(6.0, abs=0.05)
    assert coverage.effective_dimensions(np.ones((10, 3))) == 0.0


def test_novelty_does_not_depend_on_the_number_of_steps_and_sees_copies() -> None:
    def measured(values: np.ndarray, episode: np.ndarray) -> float:
        return coverage.novelty(values, episode, np.random.default_rng(0))

    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(25_000, 4)), rng.normal(size=(100_000, 4))
    one, other = (measured(v, np.arange(len(v)) // 25) for v in (small, large))
    assert one == pytest.approx(other, rel=0.1)
    assert 0.02 < one < 0.5
    few = rng.normal(size=(500, 4))
    copies = np.concatenate([few, few])
    assert measured(copies, np.arange(1000)) < 1e-3
    assert measured(few, np.zeros(500)) == 0.0
    assert measured(small + 10_000.0, np.arange(25_000) // 25) == pytest.approx(one, rel=1e-3)


def test_command(tmp_path: Path) -> None:
    stored(tmp_path / "root", [4, 3])

    def run(*words: str) -> object:
        return dom2data("report", "small", "--root", tmp_path / "root", *words)

    path = tmp_path / "page.html"
    assert run("--out", str(path)).exit_code == 0
    again = run("--out", str(path))
    assert again.exit_code == 2
    assert re.fullmatch(r"error: expected a new file, found \S+; --force replaces it\n", again.stderr)
    assert run("--out", str(path), "--force").exit_code == 0
    assert run("--out", str(tmp_path / "no" / "page.html")).exit_code == 2
