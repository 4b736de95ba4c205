"""The coordination games pay what they say, and algorithms fail or succeed at them where theory says so."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from commands import dom2

from dom2 import diagnose
from dom2data.envs import games

MOVES = np.linspace(-1.0, 1.0, 41, dtype=np.float32)


def test_the_best_joint_action_of_xor_pays_one() -> None:
    """By search over a grid of all joint actions that contains both ways."""
    joint = np.array(list(itertools.product(MOVES, MOVES)), np.float32)
    step = games.Game("xor", len(joint)).step(joint[..., None])
    paid = step.rewards[:, 0]
    assert paid.max() == pytest.approx(games.OPTIMUM["xor"])
    best = joint[paid > 0.999]
    assert sorted(best.round(3).tolist()) == [[pytest.approx(-0.6), pytest.approx(0.6)],
                                              [pytest.approx(0.6), pytest.approx(-0.6)]]  # fmt: skip
    assert paid[np.abs(joint).sum(axis=1).argmin()] == 0.0  # the average of both ways
    assert paid[(joint[:, 0] == joint[:, 1])].max() == 0.0  # both of the same sign
    assert step.terminated.all()


def test_the_best_return_of_meeting_is_three() -> None:
    """By search over all sequences of moves -1, 0, 1 of both agents."""
    moves = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=8)), np.float32).reshape(-1, 4, 2, 1)
    env, total = games.Game("meeting", len(moves)), np.zeros(len(moves))
    env.reset()
    for t in range(4):
        step = env.step(moves[:, t])
        assert step.terminated.all() == (t == 3)
        total += step.rewards[:, 0]
    assert total.max() == games.OPTIMUM["meeting"]
    assert (total == total.max()).sum() >= 2  # either way
    assert total[(moves == 0).all(axis=(1, 2, 3))] == 0.0


def test_pay_falls_to_nothing_half_a_unit_away() -> None:
    """1 - d^2 / 0.5^2 at the nearer way."""
    way = np.array([0.6, -0.6], np.float32)
    places = way + np.array([[0.0, 0.0], [0.0, 0.25], [-0.3, 0.3], [-0.5, 0.0]], np.float32)
    assert games.payoff("xor", places) == pytest.approx([1.0, 0.75, 0.28, 0.0], abs=1e-6)
    assert games.payoff("meeting", places + (1.0 - way)) == pytest.approx([1.0, 0.75, 0.28, 0.0], abs=1e-6)


@pytest.mark.parametrize("name", games.GAMES)
def test_agents_see_themselves_first(name: str) -> None:
    env = games.Game(name, 1)
    env.reset()
    obs = env.step(np.array([[[0.5], [-0.25]]], np.float32)).obs[0]
    assert obs[0, 0] == obs[1, 1] > 0 > obs[0, 1] == obs[1, 0]


@pytest.mark.parametrize("name", games.GAMES)
def test_data_of_both_ways_are_good_and_their_average_is_bad(name: str) -> None:
    data = games.data(name, "both", episodes=500)
    assert data.returns.mean() > 0.9 * games.OPTIMUM[name]
    first = data.array("actions")[data.offsets[:-1], 0, 0]
    assert abs(first.mean()) < 0.2
    assert 0.4 < (first > 0).mean() < 0.6
    assert games.data(name, "both", episodes=500).hash == data.hash
    assert games.data(name, "uniform", episodes=500).returns.mean() < 0.3 * games.OPTIMUM[name]


def test_cloning_the_average_fails_and_a_critic_that_breaks_the_tie_does_not() -> None:
    """On XOR a deterministic clone stands between the ways; with Q, most seeds settle on one of them."""
    cloned = diagnose.examine("bc", "xor", "both", updates=200, seeds=3)
    assert cloned.behaviour > 0.9
    assert cloned.mean < 0.05
    improved = diagnose.examine("ma-td3+bc", "xor", "uniform", updates=500, seeds=5)
    assert improved.solved >= 1
    assert improved.mean > cloned.mean + 0.3


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "EPISODES", 8)
    words = ["diagnose", "--algorithm", "bc,madiff-c", "--game", "xor", "--updates", "2", "--seeds", "2"]
    result = dom2(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(v["algorithm"], v["data"]) for v in found] == [
        ("bc", "both"), ("bc", "uniform"), ("madiff-c", "both"), ("madiff-c", "uniform")
    ]  # fmt: skip
    wrong = dom2("diagnose", "--game", "chess")
    assert wrong.exit_code == 2
    assert "chess" in wrong.output
