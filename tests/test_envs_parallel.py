"""The PettingZoo view passes PettingZoo's own tests, and shows the same environment as the batched one."""

from __future__ import annotations

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dom2_policies.policy import Uniform
from dom2data import envs
from dom2data.envs.parallel import ParallelView
from dom2data.envs.render import frames


@pytest.mark.parametrize("name", envs.NAMES)
def test_pettingzoo_api(name):
    parallel_api_test(ParallelView(name), num_cycles=60)


@pytest.mark.parametrize("name", envs.NAMES)
def test_pettingzoo_seed(name):
    parallel_seed_test(lambda: ParallelView(name), num_cycles=30)


@pytest.mark.parametrize("name", envs.NAMES)
def test_same_episode_as_the_batched_environment(name):
    view, env = ParallelView(name), envs.make(name, num_envs=1)
    rng = np.random.default_rng(2)
    obs, _ = view.reset(seed=11)
    rows = env.reset(11)
    for t in range(env.spec.horizon):
        for i, agent in enumerate(env.spec.agent_names):
            np.testing.assert_array_equal(obs[agent], rows[0, i, : env.spec.obs_dims[i]])
        joint = rng.uniform(-1, 1, (env.spec.n_agents, env.spec.act_dim)).astype(np.float32)
        obs, rewards, _, truncations, _ = view.step(dict(zip(env.spec.agent_names, joint, strict=True)))
        step = env.step(joint[None])
        rows = step.obs
        np.testing.assert_array_equal(list(rewards.values()), step.rewards[0])
        assert all(truncations.values()) == (t == env.spec.horizon - 1)
    assert view.agents == []


@pytest.mark.parametrize("name", envs.NAMES)
def test_pictures_show_what_moves(name):
    view = ParallelView(name, render_mode="rgb_array")
    view.reset(seed=0)
    first = view.render()
    assert first.shape == (400, 400, 3)
    assert first.dtype == np.uint8
    joint = {agent: np.ones(view.action_space(agent).shape, np.float32) for agent in view.possible_agents}
    for _ in range(5):
        view.step(joint)
    assert (view.render() != first).any()
    assert ParallelView(name).render() is None


def test_frames_cover_whole_episodes():
    spec = envs.spec("tag")
    pictures = frames("tag", Uniform(spec.act_dim), seed=0, episodes=2)
    assert len(pictures) == 2 * (spec.horizon + 1)


def test_unknown_render_mode():
    with pytest.raises(ValueError, match="render_mode"):
        ParallelView("tag", render_mode="human")
