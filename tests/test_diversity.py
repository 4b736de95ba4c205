"""Measures of diversity on policies whose diversity is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SPEC
from torch import Tensor

from dom2 import diversity
from dom2_policies.policy import Uniform
from dom2data import dataset, envs


class Normal:
    """N(mean, std^2) whatever is observed."""

    def __init__(self, mean: float, std: float):
        self.mean, self.std = mean, std

    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        return self.mean + self.std * torch.randn(*obs.shape[:-1], 2, generator=generator)


class Homing:
    """Each agent goes to one landmark: the same one always, or one drawn for each episode."""

    def __init__(self, episodes: int, drawn: bool):
        g = torch.Generator().manual_seed(0)
        targets = torch.stack([torch.randperm(6, generator=g)[:3] for _ in range(episodes)])
        self.targets = targets if drawn else torch.tensor([0, 1, 2]).expand(episodes, 3)

    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        landmarks = obs[..., 4:16].unflatten(-1, (6, 2))
        aim = landmarks.gather(2, self.targets[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
        return (4.0 * aim - 1.5 * obs[..., :2]).clamp(-1.0, 1.0)


@pytest.mark.parametrize(
    ("policy", "ratio"),
    [
        (Normal(0.1, 0.2), 1.0),
        (Normal(0.1, 0.1), 0.5),
        (Normal(0.1, 0.0), 0.0),
        (Normal(0.5, 0.2), 0.2 / 0.4472),
    ],
)
def test_ratio_of_spreads(policy: Normal, ratio: float) -> None:
    """Data N(0.1, 0.2^2): a clone has 1, one half as wide 0.5, one 0.4 off 0.2 / sqrt(0.2^2 + 0.4^2)."""
    rng = np.random.default_rng(0)
    actions = 0.1 + 0.2 * rng.standard_normal((4000, 3, 2))
    data = dataset.from_arrays(
        SPEC, np.zeros((5000, 3, 5)), actions, np.zeros((4000, 3)), np.arange(1001) * 4
    )
    for draws in (32, 3):  # the bias of a mean of three would be a tenth of the ratio and more
        assert diversity.spread_ratio(policy, data, draws=draws) == pytest.approx(ratio, abs=0.03)


def test_a_landmark_is_covered_within_two_sizes_of_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning, where nobody has moved; the repeats of a beginning are alike."""
    monkeypatch.setattr(diversity, "play", lambda *_: None)
    env = envs.make("spread-6-landmarks", num_envs=320)
    found = diversity.covered(Uniform(2), env)
    agents, _, landmarks = env.state
    near = np.linalg.norm(agents[:, :, None] - landmarks[:, None], axis=-1).min(axis=1) < 2 * 0.15
    np.testing.assert_array_equal(found, near.reshape(10, 32, 6))
    assert (found == found[:, :1]).all()
    assert 0.0 < found.mean() < 1.0


def test_solutions_are_counted() -> None:
    """One way is one solution; drawn triples of six landmarks are many; chance covers little."""
    env = envs.make("spread-6-landmarks", num_envs=320)
    one = diversity.solutions(Homing(320, drawn=False), env)
    assert one.distinct == one.effective == 1.0
    covered = diversity.covered(Homing(320, drawn=False), env)
    assert covered.shape == (10, 32, 6)
    assert covered[..., :3].mean() > 0.8
    many = diversity.solutions(Homing(320, drawn=True), env)
    assert many.distinct > 10
    assert 1.0 < many.effective <= many.distinct
    assert many.covered > 2.5
    chance = diversity.solutions(Uniform(2), env)
    assert chance.covered < many.covered
    with pytest.raises(ValueError, match="multiple of 7"):
        diversity.solutions(Uniform(2), env, repeats=7)
