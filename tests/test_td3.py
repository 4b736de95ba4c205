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
        buffer.add(value, value[:, :2], value[:, :2, :, 0], np.full(2, 2), np.zeros(2, bool))
    assert len(buffer) == 4
    assert sorted(set(buffer.rewards.ravel())) == [1.0, 2.0]


def test_minibatches_are_consistent_transitions():
    buffer = ReplayBuffer(8, 5, 2, 1, 1)
    steps = np.arange(6, dtype=np.float32)[None, :, None, None] + 100 * np.arange(8)[:, None, None, None]
    observations = np.broadcast_to(steps, (8, 6, 2, 1)) + np.array([0, 0.5])[None, None, :, None]
    buffer.add(observations, observations[:, :5], observations[:, :5, :, 0], np.full(8, 5), np.zeros(8, bool))
    batch = buffer.sample(64, np.random.default_rng(0))
    torch.testing.assert_close(batch.next_obs, batch.obs + 1)
    torch.testing.assert_close(batch.rewards, batch.obs[..., 0])
    assert not torch.equal(batch.obs[0].floor(), batch.obs[1].floor())  # each agent has its own minibatch
    only = buffer.sample(64, np.random.default_rng(0), slice(1, 2))
    assert (only.obs % 1 == 0.5).all()
    joint = buffer.sample(64, np.random.default_rng(0), joint=True)
    torch.testing.assert_close(joint.obs[1], joint.obs[0] + 0.5)


def test_short_episodes_count_by_their_length_and_end_where_they_terminated():
    buffer = ReplayBuffer(4, 5, 1, 1, 1)
    steps = np.arange(6, dtype=np.float32)[None, :, None, None] + 100 * np.arange(2)[:, None, None, None]
    buffer.add(steps, steps[:, :5], steps[:, :5, :, 0], np.array([5, 2]), np.array([False, True]))
    batch = buffer.sample(7000, np.random.default_rng(0))
    seen, counts = np.unique(batch.obs.numpy(), return_counts=True)
    np.testing.assert_array_equal(seen, [0, 1, 2, 3, 4, 100, 101])
    assert counts.min() > 850  # 1,000 each, within five standard deviations
    np.testing.assert_array_equal(batch.terminated.numpy() == 1, batch.obs[..., 0].numpy() == 101)
    again = ReplayBuffer(4, 5, 1, 1, 1)
    again.load_state_dict(buffer.state_dict())
    assert all(
        map(
            torch.equal,
            again.sample(64, np.random.default_rng(1)),
            buffer.sample(64, np.random.default_rng(1)),
        )
    )


def test_it_learns_a_target_for_each_agent():
    """One-step task: reward -(a - c_j)^2 with another best action c_j for each agent."""
    best = torch.tensor([[[0.6]], [[-0.3]]])
    learner = TD3(Config(gamma=0.0, batch_size=64), 2, 1, 1, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        obs = torch.ones(2, 64, 1)
        actions = torch.rand(2, 64, 1, generator=generator) * 2 - 1
        learner.update(Transitions(obs, actions, -(actions - best).square()[..., 0], obs, torch.zeros(2, 64)))
    learned = learner.policy(noise=0.0).act(torch.ones(1, 2, 1), generator)
    torch.testing.assert_close(learned, best.transpose(0, 1), atol=0.1, rtol=0)


def together(learner: TD3, generator: torch.Generator) -> None:
    """An update on a task whose one reward needs both: -(a_0 + a_1 - 0.8)^2 + what the critic alone sees."""
    obs = torch.rand(1, 64, 2, generator=generator).repeat(2, 1, 1)
    obs[..., 0] = 1.0
    actions = torch.rand(2, 64, 1, generator=generator) * 2 - 1
    reward = -(actions.sum(0) - 0.8).square()[:, 0].expand(2, -1) + obs[..., 1]
    learner.update(Transitions(obs, actions, reward, obs, torch.ones(2, 64)))


def test_a_joint_critic_teaches_a_team_and_nothing_follows_termination():
    config = Config(gamma=0.9, batch_size=64, joint_critic=True, grad_clip=10.0)
    learner, generator = TD3(config, 2, 2, 1, seed=0, actor_obs_dim=1), *generators(0)
    for _ in range(600):
        together(learner, generator)
    obs = torch.ones(50, 2, 2)
    obs[..., 1] = torch.rand(50, 1, generator=generator)
    actions = learner.policy(noise=0.0).act(obs, generator)
    assert (actions - actions[:1]).abs().max() == 0  # actors see the first number alone, a constant
    assert actions[0].sum() == pytest.approx(0.8, abs=0.1)
    value = learner.critic(
        torch.tensor([[[1.0, 0.5, actions[0, 0, 0], 1.0, 0.5, actions[0, 1, 0]]]]).repeat(2, 1, 1)
    )
    assert value.detach().numpy() == pytest.approx(0.5, abs=0.1)  # gamma 0.9 would make it 5


def test_a_saved_learner_continues_bit_for_bit():
    whole, half = (TD3(Config(), 2, 2, 1, seed=3) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        together(whole, generator)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        together(half, generator)
    resumed = TD3(Config(), 2, 2, 1, seed=9)
    resumed.load_state_dict(half.state_dict())
    together(resumed, generator)
    for a, b in zip(whole.critic.parameters(), resumed.critic.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.actor.parameters(), resumed.actor.parameters(), strict=True):
        assert torch.equal(a, b)
