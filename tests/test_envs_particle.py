"""The particle tasks against episodes recorded from the published code, and the engine's own promises."""

from __future__ import annotations

import json
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


def spread_by_hand(
    pos: np.ndarray, vel: np.ndarray, marks: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of spread for one row, from the published definitions, any number of agents and landmarks.

    Returns positions, velocities, observations and rewards after the step.
    """
    n, force = len(pos), 5.0 * actions.astype(float)
    for a in range(n):
        for b in range(n):
            delta = pos[a] - pos[b]
            if a != b:
                distance = np.linalg.norm(delta)
                depth = np.logaddexp(0.0, (0.3 - distance) / 1e-3) * 1e-3
                force[a] += 100.0 * delta / distance * depth
    vel = 0.75 * vel + 0.1 * force
    pos = pos + 0.1 * vel
    to_marks = np.linalg.norm(pos[:, None] - marks[None], axis=-1)
    shared = np.minimum(1.0 / to_marks.min(axis=0), 10.0).sum()
    touching = np.linalg.norm(pos[:, None] - pos[None], axis=-1) < 0.3
    rewards = shared - 5.0 * (touching.sum(axis=1) - 1)
    obs = [
        (vel[a], pos[a], (marks - pos[a]).ravel(), np.delete(pos - pos[a], a, 0).ravel(), np.zeros(2 * n - 2))
        for a in range(n)
    ]
    return pos, vel, np.array([np.concatenate(parts) for parts in obs]), rewards


@pytest.mark.parametrize(("name", "agents", "landmarks"), [("spread-5", 5, 5), ("spread-6-landmarks", 3, 6)])
def test_variants_of_spread_follow_the_same_definitions(name, agents, landmarks):
    env, rng = envs.make(name, num_envs=40, seed=3), np.random.default_rng(4)
    assert env.spec.n_agents == agents
    assert env.spec.obs_dims == (4 + 2 * landmarks + 4 * (agents - 1),) * agents
    # Close together, so that they collide and sit on landmarks.
    env.load_state(*(array / 4 for array in env.state))
    collided = paid_in_full = False
    for _ in range(25):
        actions = rng.uniform(-1, 1, (40, agents, 2)).astype(np.float32)
        before = env.state
        step = env.step(actions)
        for row in range(40):
            pos, vel, obs, rewards = spread_by_hand(*(array[row] for array in before), actions[row])
            np.testing.assert_allclose(env.state[0][row], pos, rtol=0, atol=1e-9)
            np.testing.assert_allclose(env.state[1][row], vel, rtol=0, atol=1e-9)
            np.testing.assert_allclose(step.obs[row], obs, rtol=0, atol=1e-5)
            np.testing.assert_allclose(step.rewards[row], rewards, rtol=0, atol=1e-5)
            collided |= np.ptp(rewards) > 0
            paid_in_full |= np.linalg.norm(pos[:, None] - before[2][row][None], axis=-1).min() < 0.1
    assert collided
    assert paid_in_full


@pytest.mark.parametrize(("name", "half_width"), [("spread", 1), ("spread-6-landmarks", 1), ("spread-4", 2)])
def test_four_agents_and_more_start_in_an_arena_twice_as_wide(name, half_width):
    agents, _, landmarks = envs.make(name, num_envs=2000, seed=0).state
    for array in (agents, landmarks):
        assert half_width * 0.99 < np.abs(array).max() <= half_width
        assert array.std() == pytest.approx(half_width / np.sqrt(3), rel=0.02)


def test_every_variant_is_an_environment_of_its_own():
    specs = {name: envs.spec(name) for name in envs.KNOWN}
    assert len({spec.fingerprint for spec in specs.values()}) == len(specs)
    for name, spec in specs.items():
        assert spec.env_id == name
        assert spec == envs.make(name).spec
        assert spec == spec.from_json(json.loads(json.dumps(spec.to_json())))


def test_the_published_tasks_stay_what_they_are():
    """Stored datasets name these: a change of one makes them another environment's."""
    facts = {name: envs.unguarded(name).spec.facts for name in PARTICLE}
    physics = {
        "dt": 0.1,
        "damping": 0.25,
        "contact_force": 100.0,
        "contact_margin": 1e-3,
        "mass": 1.0,
        "integration": "damp-push-cap-move",
        "version": "omar-1",
    }
    for task in facts.values():
        assert task | physics == task
    assert facts["tag"]["sizes"] == [0.075, 0.075, 0.075, 0.05]
    assert facts["world"]["landmark_sizes"] == [0.2, 0.03, 0.03, 0.3, 0.3]
    assert facts["spread"]["gain"] == [5.0, 5.0, 5.0]
    assert facts["spread"]["max_speed"] == [None, None, None]


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
    for rows in (slice(4, 9), slice(15, 16)):  # of however many rows the prey's products are
        np.testing.assert_array_equal(whole[:, rows], run(rows))


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
    with pytest.raises(ValueError, match=r"expected an environment \(tag, world, spread, .*, found 'tga'"):
        envs.make("tga")
    with pytest.raises(ValueError, match="expected a shift"):
        envs.make("tag", shift="sideways")
    with pytest.raises(ValueError, match="without a prey"):
        envs.unguarded("tag").step(np.zeros((1, 3, 2), np.float32))
