"""Independent TD3 over a stack: members do not feel each other, and they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dom2_policies.policy import Actor, Uniform, load_actor, save_actor
from dom2_policies.stacked import StackedLinear, StackedMLP, polyak_
from dom2_policies.td3 import TD3, Config, ReplayBuffer, Transitions, step_


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def test_a_stack_equals_its_members_alone():
    stack = StackedMLP(6, (5, 32, 3), generators(1, 2, 3))
    x = torch.randn(6, 64, 5, generator=torch.Generator().manual_seed(0))
    whole = stack(x)
    for s, seed in enumerate((1, 2, 3)):
        alone = StackedMLP(2, (5, 32, 3), generators(seed))
        torch.testing.assert_close(alone(x[2 * s : 2 * s + 2]), whole[2 * s : 2 * s + 2], rtol=0, atol=0)


def test_a_stack_is_the_same_as_linear_layers():
    layer, x = StackedLinear(3, 4, 2, generators(0)), torch.randn(3, 7, 4)
    for m in range(3):
        expected = torch.nn.functional.linear(x[m], layer.weight[m].T, layer.bias[m, 0])
        torch.testing.assert_close(layer(x)[m], expected)
    with pytest.raises(ValueError, match="multiple of 2"):
        StackedLinear(3, 4, 2, generators(0, 1))


def test_polyak_moves_by_the_rate():
    target, online = StackedLinear(1, 2, 2, generators(0)), StackedLinear(1, 2, 2, generators(1))
    expected = 0.9 * target.weight.detach() + 0.1 * online.weight.detach()
    polyak_(target, online, 0.1)
    torch.testing.assert_close(target.weight.detach(), expected)


def test_clipping_is_per_member():
    """A member with a huge gradient must not shrink another's step."""
    network = StackedLinear(2, 3, 1, generators(0))
    before = network.weight.detach().clone()
    x = torch.ones(2, 4, 3)
    loss = (network(x).mean((1, 2)) * torch.tensor([1e6, 1e-2])).sum()
    step_(loss, network, torch.optim.SGD(network.parameters(), 1.0), clip=0.5)
    moved = (network.weight.detach() - before).flatten(1).norm(dim=1)
    assert moved[0] == pytest.approx(
        0.5 * np.sqrt(3) / 2, rel=1e-3
    )  # weights carry sqrt(3)/2 of the gradient
    assert moved[1] == pytest.approx(1e-2 * np.sqrt(3), rel=1e-3)


def test_checkpoints_survive_and_foreign_files_are_refused(tmp_path):
    actor = Actor((4, 8, 2), 3, generators(0), noise=0.2)
    save_actor(actor, tmp_path / "a.safetensors")
    loaded = load_actor(tmp_path / "a.safetensors", noise=0.2)
    obs = torch.randn(5, 3, 4)
    torch.testing.assert_close(
        loaded.act(obs, *generators(9)), actor.act(obs, *generators(9)), rtol=0, atol=0
    )
    assert loaded.act(obs, *generators(9)).abs().max() <= 1
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="expected an actor's safetensors file"):
        load_actor(tmp_path / "b.safetensors")


def test_uniform_fills_its_range():
    actions = Uniform(2, -0.5, 1.0).act(torch.zeros(5000, 3, 7), torch.Generator().manual_seed(0))
    assert actions.shape == (5000, 3, 2)
    assert actions.min() == pytest.approx(-0.5, abs=1e-2)
    assert actions.max() == pytest.approx(1.0, abs=1e-2)


def test_the_oldest_episodes_are_overwritten():
    buffer = ReplayBuffer(4, 2, 1, 1, 1)
    for i in range(3):
        value = np.full((2, 3, 1, 1), i, np.float32)
        buffer.add(value, value[:, :2], value[:, :2, :, 0])
    assert len(buffer) == 4
    assert sorted(set(buffer.rewards.ravel())) == [1.0, 2.0]


def test_minibatches_are_consistent_transitions():
    buffer = ReplayBuffer(8, 5, 2, 1, 1)
    steps = np.arange(6, dtype=np.float32)[None, :, None, None] + 100 * np.arange(8)[:, None, None, None]
    observations = np.broadcast_to(steps, (8, 6, 2, 1)) + np.array([0, 0.5])[None, None, :, None]
    buffer.add(observations, observations[:, :5], observations[:, :5, :, 0])
    batch = buffer.sample(64, np.random.default_rng(0))
    torch.testing.assert_close(batch.next_obs, batch.obs + 1)
    torch.testing.assert_close(batch.rewards, batch.obs[..., 0])
    assert not torch.equal(batch.obs[0].floor(), batch.obs[1].floor())  # each agent has its own minibatch
    only = buffer.sample(64, np.random.default_rng(0), slice(1, 2))
    assert (only.obs % 1 == 0.5).all()


def test_it_learns_a_target_for_each_agent():
    """One-step task: reward -(a - c_j)^2 with another best action c_j for each agent."""
    best = torch.tensor([[[0.6]], [[-0.3]]])
    learner = TD3(Config(gamma=0.0, batch_size=64), 2, 1, 1, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        obs = torch.ones(2, 64, 1)
        actions = torch.rand(2, 64, 1, generator=generator) * 2 - 1
        learner.update(Transitions(obs, actions, -(actions - best).square()[..., 0], obs))
    learned = learner.actor(torch.ones(2, 1, 1)).detach()
    torch.testing.assert_close(learned, best, atol=0.1, rtol=0)
