"""The particle tasks against episodes recorded from the published code, and the engine's own promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dom2data import envs

DATA = Path(__file__).parent / "data"
PARTICLE = ("tag", "world", "spread")
REACH = {"tag": 0.125, "world": 0.12}


def trace(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("name", PARTICLE)
def test_the_engine_follows_the_recorded_episodes(name):
    recorded, env = trace(name), envs.unguarded(name, num_envs=64)
    n = env.spec.n_agents
    start = recorded["agent_pos0"]
    obs = env.load_state(start, np.zeros_like(start), recorded["landmark_pos"])
    for t in range(-1, 25):
        if t >= 0:
            actions = recorded["actions"][:, t]
            obs, rewards, terminated, truncated = env.step(actions[:, :n], actions[:, n:])
            pos, vel, _ = env.state
            np.testing.assert_allclose(pos, recorded["agent_pos"][:, t], rtol=0, atol=1e-9)
            np.testing.assert_allclose(vel, recorded["agent_vel"][:, t], rtol=0, atol=1e-9)
            joint = np.concatenate((rewards, env.prey_rewards), axis=1)
            np.testing.assert_allclose(joint, recorded["rewards"][:, t], rtol=0, atol=1e-5)
            assert truncated.all() == (t == 24)
            assert not terminated.any()
        seen = [obs[:, i] for i in range(n)] + [env.prey_obs[:, i] for i in range(env.prey_obs.shape[1])]
        for i, found in enumerate(seen):
            expected = recorded[f"obs0_{i}"] if t < 0 else recorded[f"obs_{i}"][:, t]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PARTICLE)
def test_in_the_recorded_episodes_something_happens(name):
    """The comparison above would prove little on episodes without contacts."""
    recorded, scenario = trace(name), envs.unguarded(name).scenario
    pos, landmarks = recorded["agent_pos"], recorded["landmark_pos"]
    first = np.linalg.norm(pos[:, :, 0] - pos[:, :, 1], axis=-1)
    assert (first < scenario.sizes[0] + scenario.sizes[1]).any()
    to_landmarks = np.linalg.norm(pos[:, :, :, None] - landmarks[:, None, None], axis=-1)
    assert (to_landmarks < np.add.outer(scenario.sizes, scenario.landmark_sizes)).any(axis=(0, 1, 2)).all()
    if scenario.has_prey:
        touching = np.linalg.norm(pos[:, :, :3] - pos[:, :, 3:], axis=-1) < REACH[name]
        assert touching.any()
        assert (np.abs(pos[:, :, 3]) > 1).any()


def test_uniform_actions_earn_the_published_return_in_spread():
    """Spread has no prey, so its random level tests the physics: 159.57 +- 60.46 over 40,000 episodes."""
    env, rng = envs.make("spread", num_envs=20_000, seed=0), np.random.default_rng(1)
    steps = [env.step(rng.uniform(-1, 1, (20_000, 3, 2)).astype(np.float32)).rewards for _ in range(25)]
    returns = np.sum(steps, axis=0).mean(axis=1)
    assert 159.0 < returns.mean() < 161.2
    assert 59.5 < returns.std() < 61.5


def test_step_leaves_the_callers_actions_alone():
    env = envs.make("tag", num_envs=8, seed=1)
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3, 2)).astype(np.float32)
    before = actions.copy()
    env.step(actions)
    np.testing.assert_array_equal(actions, before)


def test_equal_seeds_give_equal_episodes_and_rows_are_independent():
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 16, 3, 2)).astype(np.float32)

    def run(rows: slice) -> np.ndarray:
        env = envs.make("tag", num_envs=16, seed=7)
        state = env.state
        part = envs.make("tag", num_envs=len(range(*rows.indices(16))), seed=0)
        part.load_state(*(array[rows] for array in state))
        return np.stack([part.step(a[rows]).obs for a in actions])

    whole = run(slice(0, 16))
    np.testing.assert_array_equal(whole, run(slice(0, 16)))
    # The prey's matrix product may round differently in a smaller batch; the physics does not.
    np.testing.assert_allclose(whole[:, 4:9], run(slice(4, 9)), atol=1e-4)


def test_reset_with_a_mask_leaves_the_other_rows_alone():
    env = envs.make("tag", num_envs=6, seed=3)
    for _ in range(25):
        step = env.step(np.zeros((6, 3, 2), np.float32))
    assert step.truncated.all()
    mask = np.array([True, False] * 3)
    before = env.state[0]
    obs = env.reset(mask=mask)
    np.testing.assert_array_equal(env.state[0][~mask], before[~mask])
    np.testing.assert_array_equal(obs[~mask], step.obs[~mask])
    assert not np.isin(obs[mask], step.obs[mask]).all()
    np.testing.assert_array_equal(env.step(np.zeros((6, 3, 2), np.float32)).truncated, ~mask)


def test_initial_states_are_uniform_in_their_squares():
    agents, vel, landmarks = envs.make("tag", num_envs=4000, seed=0).state
    for array, bound in ((agents, 1.0), (landmarks, 0.9)):
        assert np.abs(array).max() <= bound
        assert abs(array.mean()) < 0.02
        assert array.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert not vel.any()


def chase(prey_moves: bool) -> tuple[float, float]:
    """Predators that run straight at the prey: their mean return, and how often a close prey moves away."""
    env = envs.make("tag", num_envs=500, seed=5)
    still = np.zeros((500, 1, 2), np.float32)
    obs, returns, away = env.observe(), np.zeros(500), []
    for _ in range(25):
        towards = obs[:, :, 12:14]  # the prey's relative position
        pos = env.state[0]
        step = env.step(
            towards / np.linalg.norm(towards, axis=-1, keepdims=True), None if prey_moves else still
        )
        flight = pos[:, 3:] - pos[:, :3]
        nearest = np.linalg.norm(flight, axis=-1).argmin(axis=1)[:, None, None]
        flight = np.take_along_axis(flight, nearest, axis=1)[:, 0]
        close = np.linalg.norm(flight, axis=-1) < 0.5
        away.append(((flight * env.state[1][:, 3]).sum(axis=-1) > 0)[close])
        obs = step.obs
        returns += step.rewards[:, 0]
    return float(returns.mean()), float(np.concatenate(away).mean())


def test_the_prey_flees():
    caught, away = chase(prey_moves=True)
    easy, _ = chase(prey_moves=False)
    assert away > 0.65
    assert caught < easy / 3


def test_fingerprint_names_the_prey():
    standard, unguarded = envs.spec("tag"), envs.unguarded("tag").spec
    assert standard.fingerprint == envs.make("tag").spec.fingerprint
    assert standard.fingerprint != unguarded.fingerprint


def test_unknown_names_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"expected an environment \(tag\), found 'tga'"):
        envs.make("tga")
    with pytest.raises(ValueError, match="expected a shift"):
        envs.make("tag", shift="sideways")
    with pytest.raises(ValueError, match="without a prey"):
        envs.unguarded("tag").step(np.zeros((1, 3, 2), np.float32))
