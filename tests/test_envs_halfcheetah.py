"""HalfCheetah against gymnasium's HalfCheetah-v5 and gymnasium-robotics' mamujoco_v1, number by number."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium_robotics import mamujoco_v1

from dom2data import envs
from dom2data.envs.halfcheetah import HalfCheetahEnv, silent, standard_model
from dom2data.errors import FAILED, UserError

AGENTS = ("agent_0", "agent_1")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes its warnings into the present folder."""
    monkeypatch.chdir(tmp_path)


def uniform(steps: int, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, rows, 2, 3)).astype(np.float32)


def assert_follows_gymnasium(env: HalfCheetahEnv, actions: np.ndarray) -> None:
    """Each row and its own gymnasium environment, from the state that the row is in, bit for bit."""
    references = [gymnasium.make("HalfCheetah-v5").unwrapped for _ in range(env.num_envs)]
    for reference, qpos, qvel in zip(references, *env.state, strict=True):
        reference.reset()
        reference.set_state(qpos, qvel)
    for joint in actions:
        step = env.step(joint)
        for row, reference in enumerate(references):
            _, reward, terminated, _, _ = reference.step(joint[row].ravel())
            np.testing.assert_array_equal(env.state[0][row], reference.data.qpos)
            np.testing.assert_array_equal(env.state[1][row], reference.data.qvel)
            assert (step.rewards[row] == np.float32(reward)).all()
            assert step.terminated[row] == terminated


@pytest.mark.parametrize("threads", [1, 2])
def test_whole_episodes_equal_gymnasium(threads):
    env = HalfCheetahEnv(3, seed=1, threads=threads)
    assert_follows_gymnasium(env, uniform(1000, 3))
    # A second episode in the same rows owes nothing to the first, the solver's warm start included.
    env.reset(2)
    assert_follows_gymnasium(env, uniform(50, 3, seed=1))


def test_a_loaded_state_equals_gymnasium():
    rng = np.random.default_rng(0)
    env = envs.make("halfcheetah", num_envs=2)
    qpos, qvel = rng.uniform(-0.5, 0.5, (2, 9)), rng.normal(size=(2, 9))
    env.load_state(qpos, qvel)
    np.testing.assert_array_equal(env.state, (qpos, qvel))
    assert_follows_gymnasium(env, uniform(100, 2))


def test_torques_beyond_one_are_clipped_by_the_model_and_paid_in_full():
    assert_follows_gymnasium(HalfCheetahEnv(2, seed=3), 3 * uniform(20, 2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("halfcheetah-mamujoco", {}),
        # The published data's six numbers: no neighbours, no root, by the wrapper's own ordering of joints.
        ("halfcheetah", {"agent_obsk": 0, "global_categories": ()}),
    ],
)
def test_observations_and_actions_equal_the_published_wrapper(name, options):
    env = envs.make(name, num_envs=1, seed=4)
    wrapper = mamujoco_v1.parallel_env("HalfCheetah", "2x3", **options)
    wrapper.reset()
    single = wrapper.single_agent_env.unwrapped
    single.set_state(*(array[0] for array in env.state))
    for joint in uniform(200, 1, seed=5):
        step = env.step(joint)
        obs, rewards, _, _, _ = wrapper.step(dict(zip(AGENTS, joint[0], strict=True)))
        for i, agent in enumerate(AGENTS):
            # The wrapper gives float64; stores and policies are float32.
            np.testing.assert_array_equal(step.obs[0, i], obs[agent].astype(np.float32))
            # It also squares the actions in float64, gymnasium in the float32 they are given in.
            assert step.rewards[0, i] == pytest.approx(rewards[agent], abs=1e-6)


def test_omar_names_the_joints_alphabetically_positions_and_velocities_interleaved():
    qpos, qvel = np.arange(9.0), 10 + np.arange(9.0)
    obs = envs.make("halfcheetah").load_state(qpos[None], qvel[None])
    model = standard_model()
    for agent, leg in enumerate("bf"):
        expected = []
        for joint in sorted(leg + part for part in ("thigh", "shin", "foot")):
            address = model.joint(joint).qposadr[0]
            expected += [qpos[address], qvel[address]]
        np.testing.assert_array_equal(obs[0, agent], expected)
    motors = [model.actuator(i).name for i in range(6)]
    assert motors == ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]


def test_initial_states_have_gymnasiums_distribution():
    qpos, qvel = envs.make("halfcheetah", num_envs=4000, seed=6).state
    assert np.abs(qpos).max() <= 0.1
    np.testing.assert_allclose(qpos.std(axis=0), 0.1 / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(qvel.std(axis=0), 0.1, rtol=0.05)
    # Four standard errors of a mean over 36,000 numbers.
    assert abs(qpos.mean()) < 4 * 0.1 / np.sqrt(3 * qpos.size)
    assert abs(qvel.mean()) < 4 * 0.1 / np.sqrt(qvel.size)
    # Velocities are normal, not uniform: 4.6 % lie beyond two standard deviations.
    assert np.mean(np.abs(qvel) > 0.2) == pytest.approx(0.0455, abs=0.005)


def test_reset_with_a_mask_leaves_the_other_rows_alone():
    actions = uniform(40, 4)
    whole, masked = HalfCheetahEnv(4, seed=7), HalfCheetahEnv(4, seed=7)
    mask = np.array([True, False, True, False])
    for t, joint in enumerate(actions):
        if t == 20:
            before = masked.observe()
            after = masked.reset(mask=mask)
            np.testing.assert_array_equal(after[~mask], before[~mask])
            assert (after[mask] != before[mask]).all(axis=(1, 2)).all()
        expected, found = whole.step(joint), masked.step(joint)
        np.testing.assert_array_equal(found.obs[~mask], expected.obs[~mask])
        np.testing.assert_array_equal(found.rewards[~mask], expected.rewards[~mask])
    assert (found.obs[mask] != expected.obs[mask]).any(axis=(1, 2)).all()


def test_an_episode_ends_by_its_time_limit_alone():
    env = HalfCheetahEnv(2, seed=8)
    still = np.zeros((2, 2, 3), np.float32)
    for t in range(1, 1001):
        if t == 501:
            env.reset(mask=np.array([False, True]))
        step = env.step(still)
        assert step.truncated.tolist() == [t == 1000, False]
        assert not step.terminated.any()
    env.reset()
    assert not env.step(still).truncated.any()


def test_a_row_runs_on_its_own_model():
    heavy = copy.copy(standard_model())
    heavy.body_mass[1] *= 2
    env, standard = HalfCheetahEnv(2, seed=10), HalfCheetahEnv(2, seed=10)
    env.models[1] = heavy
    for joint in uniform(10, 2):
        found, expected = env.step(joint), standard.step(joint)
    np.testing.assert_array_equal(found.obs[0], expected.obs[0])
    assert (found.obs[1] != expected.obs[1]).any()
    env.models[1] = standard.models[1]
    env.load_state(*standard.state)
    standard.load_state(*standard.state)
    np.testing.assert_array_equal(env.step(joint).obs, standard.step(joint).obs)


@pytest.mark.parametrize("threads", [1, 2])
def test_divergence_is_an_error_that_names_seed_and_step(threads):
    env = HalfCheetahEnv(3, seed=1234, threads=threads)
    qpos, qvel = env.state
    qvel[2, 3] = 1e12
    env.load_state(qpos, qvel)
    with pytest.raises(UserError, match=r"mjWARN_BADQVEL.* at step 1 of row 2 \(seed 1234\)") as error:
        env.step(uniform(1, 3)[0])
    assert error.value.code == FAILED
    # The next episode is a fresh one.
    env.reset()
    assert np.isfinite(env.step(uniform(1, 3)[0]).obs).all()


def test_an_action_that_is_no_number_is_an_error():
    env, actions = HalfCheetahEnv(2), uniform(2, 2)
    env.step(actions[0])
    actions[1, 0, 1, 2] = np.nan
    with pytest.raises(UserError, match=r"\(mjWARN_BADCTRL\) at step 2 of row 0"):
        env.step(actions[1])


def test_uniform_actions_earn_the_published_return():
    """-282.9 +- 77.5 in the published data (MuJoCo 2.0); MuJoCo 4 gives about the same.

    The mean of 60 episodes has a standard error of 10; 40 is four of them. Without the control cost, which
    alone is -200, or at twice the speed, it would lie outside.
    """
    env, rng = HalfCheetahEnv(60, seed=11), np.random.default_rng(12)
    returns = sum(env.step(rng.uniform(-1, 1, (60, 2, 3))).rewards[:, 0] for _ in range(1000))
    assert returns.mean() == pytest.approx(-282.9, abs=40)
    assert 40 < returns.std() < 115


def test_two_styles_are_two_environments():
    assert envs.spec("halfcheetah").obs_dims == (6, 6)
    assert envs.spec("halfcheetah-mamujoco").obs_dims == (12, 12)
    assert envs.spec("halfcheetah").fingerprint != envs.spec("halfcheetah-mamujoco").fingerprint
    assert envs.spec("halfcheetah").facts["mujoco"] == mujoco.__version__
    with pytest.raises(ValueError, match="expected an obs_style"):
        HalfCheetahEnv(1, obs_style="gym")


def test_one_thread_at_a_time_keeps_mujoco_silent() -> None:
    """It has one handler of warnings for all: none may be put back while another thread still compiles."""

    def enter() -> None:
        with silent():
            pass

    before = mujoco.get_mju_user_warning()
    with ThreadPoolExecutor(1) as pool:
        with silent():
            other = pool.submit(enter)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
        other.result(timeout=60)
    assert mujoco.get_mju_user_warning() == before
