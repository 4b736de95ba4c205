"""Normalised scores."""

from __future__ import annotations

import numpy as np
import pytest

from dom2_policies import zoo
from dom2data import scores
from dom2data.errors import UserError


def test_random_is_0_and_expert_is_100() -> None:
    for env, at in scores.PUBLISHED.items():
        assert scores.normalize(env, at["random"]) == 0
        assert scores.normalize(env, at["expert"]) == pytest.approx(100)
        assert scores.denormalize(env, 37.5) == pytest.approx(
            at["random"] + 0.375 * (at["expert"] - at["random"])
        )
        np.testing.assert_allclose(
            scores.normalize(env, scores.denormalize(env, np.arange(-50, 150))), np.arange(-50, 150)
        )


@pytest.mark.parametrize(
    ("env", "levels"),
    [
        ("spread", [159.8, 249.05, 338.3, 427.55, 516.8]),
        ("tag", [-4.1, 43.325, 90.75, 138.175, 185.6]),
        ("world", [-6.8, 14.775, 36.35, 57.925, 79.5]),
        ("halfcheetah", [-283.97, 679.225, 1642.42, 2605.615, 3568.81]),
    ],
)
def test_published_score_levels(env: str, levels: list[float]) -> None:
    """The returns at scores 0, 25, 50, 75 and 100, from the literature's references."""
    assert scores.denormalize(env, np.array([0, 25, 50, 75, 100])) == pytest.approx(levels, abs=1e-9)


def test_own_references_are_those_of_the_shipped_checkpoints() -> None:
    at = zoo.entry("tag")["references"]
    assert scores.references("tag", "own") == at
    assert scores.normalize("tag", at["expert"], "own") == pytest.approx(100)


@pytest.mark.parametrize("reference", ["published", "own"])
def test_an_environment_without_references(reference: scores.Reference) -> None:
    with pytest.raises(UserError, match=r"expected.*found 'chess'") as error:
        scores.normalize("chess", 1.0, reference)
    assert error.value.code == 2
