"""Independent TD3 over a stack: members do not feel each other, and they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_datasets import generators

from dom2_policies import portable
from dom2_policies.policy import Actor, Uniform, drawn, load_actor, save_actor
from dom2_policies.stacked import StackedLinear, StackedMLP, polyak_
from dom2_policies.td3 import TD3, Adam, Config, ReplayBuffer, Transitions


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


def test_exploration_falls_linearly_and_stays():
    config = Config(noise_start=0.3, noise_end=0.1, noise_steps=400)
    found = [config.noise(steps) for steps in (0, 100, 200, 400, 1000)]
    assert found == pytest.approx([0.3, 0.25, 0.2, 0.1, 0.1])


def test_polyak_moves_by_the_rate():
    target, online = StackedLinear(1, 2, 2, generators(0)), StackedLinear(1, 2, 2, generators(1))
    expected = 0.9 * target.weight.detach() + 0.1 * online.weight.detach()
    polyak_(target, online, 0.1)
    torch.testing.assert_close(target.weight.detach(), expected)


def test_clipping_is_per_member():
    """A member with a huge gradient must not shrink another's."""
    gradients = [np.ones((2, 3, 1), np.float32), np.ones((2, 1, 1), np.float32)]
    for gradient in gradients:
        gradient *= np.array([1e6, 1e-2], np.float32)[:, None, None]
    scale = portable.clipping(gradients, 0.5)
    assert scale[0] == pytest.approx(0.5 / 2e6)
    assert scale[1] == 1.0


def test_adam_is_pytorchs():
    theirs = StackedMLP(3, (4, 8, 2), generators(0))
    mine = StackedMLP(3, (4, 8, 2), generators(0))
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2)
    adam, rng = Adam(mine.arrays(), 1e-2, clip=1e9), np.random.default_rng(0)
    for _ in range(20):
        gradients = [rng.normal(size=p.shape).astype(np.float32) for p in theirs.parameters()]
        for parameter, gradient in zip(theirs.parameters(), gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        adam.step(gradients)
    for a, b in zip(theirs.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def autograd(learner: TD3, batch: Transitions) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The gradients of both losses, by PyTorch, with the same draw of smoothing noise."""
    config, c = learner.config, learner.n_critics
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    noise = torch.from_numpy(portable.normal(drawn(generator), batch.actions.shape)) * config.smoothing
    obs, actions, rewards, next_obs, terminated = map(torch.from_numpy, batch)

    def inputs(o, a):
        joined = torch.cat((o, a), -1)
        return joined.transpose(0, 1).reshape(1, o.shape[1], -1) if config.joint_critic else joined

    def q(critic, o, a):
        return critic(inputs(o, a).repeat(2, 1, 1)).view(2, c, -1)

    with torch.no_grad():
        smooth = noise.clamp(-config.smoothing_clip, config.smoothing_clip)
        chosen = (learner.target_actor(next_obs[..., : learner.actor_obs_dim]) + smooth).clamp(-1, 1)
        value = q(learner.target_critic, next_obs, chosen).amin(0)
        target = config.reward_scale * rewards[:c] + config.gamma * (1 - terminated[:c]) * value
    loss = (q(learner.critic, obs, actions) - target).square().mean(-1).sum()
    to_critic = torch.autograd.grad(loss, list(learner.critic.parameters()))
    judged = learner.critic(inputs(obs, learner.actor(obs[..., : learner.actor_obs_dim])), slice(0, c))
    to_actor = torch.autograd.grad(-judged.mean((1, 2)).sum(), list(learner.actor.parameters()))
    return [g.numpy() for g in to_critic], [g.numpy() for g in to_actor]


@pytest.mark.parametrize("joint", [False, True])
def test_the_written_gradients_are_autograds(joint):
    config = Config(joint_critic=joint, reward_scale=0.3)
    learner, rng = TD3(config, 3, 5, 2, seed=0, actor_obs_dim=4), np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 3, 50, 5)).astype(np.float32)
    batch = Transitions(
        obs,
        rng.uniform(-1, 1, (3, 50, 2)).astype(np.float32),
        rng.normal(size=(3, 50)).astype(np.float32),
        next_obs,
        np.float32(rng.random((3, 50)) < 0.2),
    )
    to_critic, to_actor = autograd(learner, batch)
    for mine, theirs in (
        (learner.critic_gradients(batch), to_critic),
        (learner.actor_gradients(batch), to_actor),
    ):
        assert len(mine) == len(theirs) == 6
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


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
    np.testing.assert_array_equal(batch.next_obs, batch.obs + 1)
    np.testing.assert_array_equal(batch.rewards, batch.obs[..., 0])
    assert not np.array_equal(
        np.floor(batch.obs[0]), np.floor(batch.obs[1])
    )  # each agent has its own minibatch
    only = buffer.sample(64, np.random.default_rng(0), slice(1, 2))
    assert (only.obs % 1 == 0.5).all()
    joint = buffer.sample(64, np.random.default_rng(0), joint=True)
    np.testing.assert_array_equal(joint.obs[1], joint.obs[0] + 0.5)


def test_short_episodes_count_by_their_length_and_end_where_they_terminated():
    buffer = ReplayBuffer(4, 5, 1, 1, 1)
    steps = np.arange(6, dtype=np.float32)[None, :, None, None] + 100 * np.arange(2)[:, None, None, None]
    buffer.add(steps, steps[:, :5], steps[:, :5, :, 0], np.array([5, 2]), np.array([False, True]))
    batch = buffer.sample(7000, np.random.default_rng(0))
    seen, counts = np.unique(batch.obs, return_counts=True)
    np.testing.assert_array_equal(seen, [0, 1, 2, 3, 4, 100, 101])
    assert counts.min() > 850  # 1,000 each, within five standard deviations
    np.testing.assert_array_equal(batch.terminated == 1, batch.obs[..., 0] == 101)
    again = ReplayBuffer(4, 5, 1, 1, 1)
    again.load_state_dict(buffer.state_dict())
    assert all(
        map(
            np.array_equal,
            again.sample(64, np.random.default_rng(1)),
            buffer.sample(64, np.random.default_rng(1)),
        )
    )


def test_it_learns_a_target_for_each_agent():
    """One-step task: reward -(a - c_j)^2 with another best action c_j for each agent."""
    best = np.array([[[0.6]], [[-0.3]]], np.float32)
    learner, rng = TD3(Config(gamma=0.0, batch_size=64), 2, 1, 1, seed=0), np.random.default_rng(0)
    for _ in range(400):
        obs, actions = np.ones((2, 64, 1), np.float32), rng.uniform(-1, 1, (2, 64, 1)).astype(np.float32)
        rewards = -np.square(actions - best)[..., 0]
        learner.update(Transitions(obs, actions, rewards, obs, np.zeros((2, 64), np.float32)))
    learned = learner.policy(noise=0.0).act(torch.ones(1, 2, 1), torch.Generator())
    np.testing.assert_allclose(learned, best.swapaxes(0, 1), atol=0.1)


def together(learner: TD3, rng: np.random.Generator) -> None:
    """An update on a task whose one reward needs both: -(a_0 + a_1 - 0.8)^2 + what the critic alone sees."""
    obs = np.repeat(rng.random((1, 64, 2)).astype(np.float32), 2, axis=0)
    obs[..., 0] = 1.0
    actions = rng.uniform(-1, 1, (2, 64, 1)).astype(np.float32)
    reward = obs[..., 1] - np.square(actions.sum(axis=0) - np.float32(0.8))[:, 0]
    learner.update(Transitions(obs, actions, reward, obs, np.ones((2, 64), np.float32)))


def test_a_joint_critic_teaches_a_team_and_nothing_follows_termination():
    config = Config(gamma=0.9, batch_size=64, joint_critic=True, grad_clip=10.0)
    learner, rng = TD3(config, 2, 2, 1, seed=0, actor_obs_dim=1), np.random.default_rng(0)
    for _ in range(600):
        together(learner, rng)
    obs = torch.ones(50, 2, 2)
    obs[..., 1] = torch.from_numpy(rng.random((50, 1)))
    actions = learner.policy(noise=0.0).act(obs, torch.Generator())
    assert (actions - actions[:1]).abs().max() == 0  # actors see the first number alone, a constant
    assert actions[0].sum() == pytest.approx(0.8, abs=0.1)
    value = learner.critic(
        torch.tensor([[[1.0, 0.5, actions[0, 0, 0], 1.0, 0.5, actions[0, 1, 0]]]]).repeat(2, 1, 1)
    )
    assert value.detach().numpy() == pytest.approx(0.5, abs=0.1)  # gamma 0.9 would make it 5


def test_a_saved_learner_continues_bit_for_bit():
    whole, half = (TD3(Config(), 2, 2, 1, seed=3) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(4):
        together(whole, rng)
    rng = np.random.default_rng(0)
    for _ in range(3):
        together(half, rng)
    resumed = TD3(Config(), 2, 2, 1, seed=9)
    resumed.load_state_dict(half.state_dict())
    together(resumed, rng)
    for a, b in zip(whole.critic.parameters(), resumed.critic.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.actor.parameters(), resumed.actor.parameters(), strict=True):
        assert torch.equal(a, b)
