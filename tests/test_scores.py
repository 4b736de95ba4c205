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


def test_published_score_levels_of_tag() -> None:
    """The returns at scores 25, 50, 75 and 100, rounded as the literature gives them."""
    assert np.round(scores.denormalize("tag", np.array([25, 50, 75, 100])), 1).tolist() == [
        43.3,
        90.8,
        138.2,
        185.6,
    ]


def test_own_references_are_those_of_the_shipped_checkpoints() -> None:
    at = zoo.entry("tag")["references"]
    assert scores.references("tag", "own") == at
    assert scores.normalize("tag", at["expert"], "own") == pytest.approx(100)


@pytest.mark.parametrize("reference", ["published", "own"])
def test_an_environment_without_references(reference: scores.Reference) -> None:
    with pytest.raises(UserError, match=r"expected.*found 'chess'") as error:
        scores.normalize("chess", 1.0, reference)
    assert error.value.code == 2
