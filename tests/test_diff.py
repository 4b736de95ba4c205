"""What ``diff`` says of datasets whose differences are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import dom2data
from small_datasets import in_memory, stored

from dom2data.diff import apart, diff, fingerprints, rows
from dom2data.subsample import subsample

LENGTHS = [4, 3, 4, 2, 4, 4]


def test_a_dataset_and_itself() -> None:
    same = diff(in_memory(LENGTHS), in_memory(LENGTHS))
    assert same["same_content"]
    assert same["schema"] == same["facts"] == same["recipe"] == []
    assert all(entry["ks"] == entry["wasserstein"] == 0.0 for entry in same["returns"].values())
    assert all(entry["ks"] == 0.0 for entries in same["drift"].values() for entry in entries)
    assert same["shared"] == {"identical": [6, 6], "same_start": [6, 6]}


def test_distances_of_known_samples() -> None:
    x = np.arange(1000.0)
    found = apart(x, x + 100)
    assert found["wasserstein"] == pytest.approx(100)
    assert found["ks"] == pytest.approx(0.1)
    assert apart(x, x + 5000)["ks"] == 1.0


def test_episodes_that_are_alike_do_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows at a fixed distance would all be of the same time of the episode."""
    monkeypatch.setattr("dom2data.diff.ROWS", 200)
    many, few = (np.tile(np.arange(25.0), n) for n in (200, 8))
    assert apart(rows(many), rows(few))["ks"] < 0.12
    assert len(rows(many)) == len(rows(few)) == 200
    np.testing.assert_array_equal(rows(many), rows(many))


def test_the_dimension_that_drifted_comes_first() -> None:
    one, other = in_memory([4] * 50), in_memory([4] * 50)
    other.array("actions")[:, 2, 1] += 0.5
    other.array("observations")[:, 1, 3] *= 2
    drift = diff(one, other)["drift"]
    assert [(e["agent"], e["dimension"]) for e in drift["actions"][:1]] == [("c", 1)]
    assert [(e["agent"], e["dimension"]) for e in drift["observations"][:1]] == [("b", 3)]
    assert drift["actions"][1]["ks"] == 0.0
    assert drift["actions"][0]["wasserstein"] == pytest.approx(0.5, abs=1e-6)


def test_shared_episodes_are_counted(tmp_path: Path) -> None:
    """Train/test leakage: whole episodes, or the same seed with other actions."""
    parent = stored(tmp_path, LENGTHS)
    half = subsample(parent, 0.5, root=tmp_path)
    assert diff(parent, half)["shared"]["identical"] == [3, 3]
    other = in_memory(LENGTHS)
    other.array("actions")[...] *= 0.5
    assert diff(parent, other)["shared"] == {"identical": [0, 0], "same_start": [6, 6]}
    assert len(set(fingerprints(parent, whole=True))) == 6


def test_other_shapes_are_a_difference_and_not_an_error(tmp_path: Path) -> None:
    one, other = in_memory([4, 4]), in_memory([5, 5], horizon=5)
    found = diff(one, other)
    assert found["schema"] == [["horizon", 4, 5]]


def test_the_command(tmp_path: Path) -> None:
    stored(tmp_path, LENGTHS, name="a")
    stored(tmp_path, LENGTHS, name="b", seed=1)
    text = dom2data("diff", "a", "b", "--root", tmp_path)
    assert text.exit_code == 0, text.stderr
    assert "identical episodes  0 of the first, 0 of the second" in text.stdout
    assert "return of team" in text.stdout
    same = dom2data("diff", "a", "a", "--root", tmp_path, "--json")
    assert json.loads(same.stdout)["same_content"]
    leaks = dom2data("diff", "a", "a", "--root", tmp_path)
    assert "neither is a fair test" in leaks.stderr
