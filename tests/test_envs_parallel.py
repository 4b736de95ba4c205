"""The PettingZoo view passes PettingZoo's own tests, and shows the same environment as the batched one."""

from __future__ import annotations

import runpy
from pathlib import Path

import meeting
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test
from PIL import Image

from dom2_policies.policy import Uniform
from dom2data import envs
from dom2data.envs.parallel import ParallelView
from dom2data.envs.render import draw


@pytest.mark.parametrize("name", envs.KNOWN)
def test_pettingzoo_api(name):
    parallel_api_test(ParallelView(name), num_cycles=60)


@pytest.mark.parametrize("name", envs.KNOWN)
def test_pettingzoo_seed(name):
    parallel_seed_test(lambda: ParallelView(name), num_cycles=30)


def test_without_a_seed_no_two_are_alike():
    (one, _), (other, _) = (ParallelView("tag").reset() for _ in range(2))
    assert (one["predator_0"] != other["predator_0"]).any()


@pytest.mark.parametrize("name", envs.KNOWN)
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


def test_a_termination_is_told_and_ends_the_episode(tmp_path):
    view = ParallelView(meeting.written(tmp_path, ("distance < 0.05", "self.steps == 3")))
    view.reset(seed=0)
    joint = dict.fromkeys(view.possible_agents, np.zeros(1, np.float32))
    ends = [view.step(joint)[2:4] for _ in range(3)]
    told = [tuple(set(values.values()) for values in each) for each in ends]
    assert told == [({False}, {False})] * 2 + [({True}, {False})]
    assert view.agents == []


def test_a_step_without_an_episode_is_refused():
    view = ParallelView("tag")
    joint = dict.fromkeys(view.possible_agents, np.ones(2, np.float32))
    before = view.state()
    with pytest.raises(ValueError, match="expected an episode to go on with"):
        view.step(joint)
    np.testing.assert_array_equal(view.state(), before)


@pytest.mark.parametrize("name", envs.KNOWN)
def test_pictures_show_what_moves(name):
    view = ParallelView(name, render_mode="rgb_array")
    view.reset(seed=0)
    first = view.render()
    assert first.shape == (400, 400, 3)
    assert first.dtype == np.uint8
    joint = {agent: np.ones(view.action_space(agent).shape, np.float32) for agent in view.possible_agents}
    for _ in range(5):
        view.step(joint)
    # More than a smoothed edge here and there.
    assert (view.render() != first).any(axis=2).sum() > 100
    assert ParallelView(name).render() is None


def test_the_camera_follows_the_cheetah():
    """Five metres on, in the same pose, only the marks below the ground differ."""
    env = envs.make("halfcheetah", num_envs=2, seed=0)
    qpos, qvel = env.state
    qpos[1] = qpos[0] + np.eye(9)[0] * 5.0
    env.load_state(qpos, qvel)
    here, there = draw(env, 0).astype(int), draw(env, 1).astype(int)
    changed = np.abs(here - there).max(axis=2) > 40  # not the rounding of half a pixel
    assert not changed[:280].any()
    assert changed[280:].any()


def test_a_larger_arena_is_drawn_from_farther_away():
    """Agents of spread-4 are as large as those of spread, in an arena twice as wide."""
    areas = []
    for name in ("spread", "spread-4"):
        picture = draw(envs.make(name, seed=0), 0)
        red = (picture[..., 0] > 190) & (picture[..., 1] < 100)
        areas.append(red.sum() / envs.spec(name).n_agents)
    assert areas[0] / areas[1] == pytest.approx(4.0, rel=0.15)


def test_a_shifted_environment_is_drawn_without_what_was_dismissed():
    env = envs.make("spread-6-landmarks", shift="dismiss", seed=0)
    standard = envs.make("spread-6-landmarks", seed=0)
    np.testing.assert_array_equal(env.env.state[0], standard.state[0])
    assert (draw(env, 0) != draw(standard, 0)).any()


def test_an_environment_without_a_picture_is_named(tmp_path):
    meet = meeting.written(tmp_path)
    with (
        envs.closing(envs.make(meet)) as env,
        pytest.raises(TypeError, match=f"found {meet}: it has no picture"),
    ):
        draw(env, 0)
    with pytest.raises(TypeError, match="found object: it has no picture"):
        draw(object(), 0)


def test_contact_sheet(tmp_path):
    file = tmp_path / "sheet.png"
    page = Path(__file__).resolve().parent.parent / "docs/images/tasks.py"
    runpy.run_path(str(page))["contact_sheet"]({"tag": Uniform(2), "spread-10": Uniform(2)}, file)
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
        width, height = sheet.size
    assert width > 600
    assert height > 400
    assert file.stat().st_size < 300_000


def test_unknown_render_mode():
    with pytest.raises(ValueError, match="render_mode"):
        ParallelView("tag", render_mode="human")
