"""Shifts: neutral ones change no bit, others do what they say and nothing else."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Any

import mujoco
import numpy as np
import pages
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from dom2_policies.policy import Uniform, acting
from dom2data import envs
from dom2data.envs import halfcheetah, shifts, shifts_halfcheetah
from dom2data.envs.shifts import Shift, Shifted
from dom2data.rollout import play
from dom2data.spec import Step

torch.set_num_threads(1)
ROWS, STEPS = 4, 12
READY = ("tag", "world", "spread", "spread-4", "spread-6-landmarks", "halfcheetah", "halfcheetah-mamujoco")
EVERY = [(env, name) for env in READY for name in shifts.applying(env)]

TRUE_DEFAULTS = {"power": ((0.9, 0.9),), "friction": ((0.8, 0.8),), "density": ((1000.0, 1000.0),)}
NEUTRAL: dict[str, tuple[str, Any]] = {
    "speed, capped": ("tag", lambda spec: shifts.speed(spec, v_min=1.0)),
    "speed, not capped": ("spread", lambda spec: shifts.speed(spec, v_min=1.0)),
    "dismiss": ("spread-6-landmarks", lambda spec: shifts.dismiss(spec, count=0)),
    "offline": ("spread", lambda spec: shifts.offline(spec, count=0)),
    "prey": ("tag", lambda spec: shifts.prey(spec, epsilon=0.0)),
    "noise": ("spread", lambda spec: shifts.noise(spec, sigma=0.0)),
    "delay": ("tag", lambda spec: shifts.delay(spec, steps=0)),
    "model": ("halfcheetah", lambda spec: shifts_halfcheetah.packer(spec, "random", ranges=TRUE_DEFAULTS)),
}


def shifted(env: str, name: str, seed: int = 0, rows: int = ROWS) -> Shifted:
    made = envs.make(env, rows, shift=name, seed=seed)
    assert isinstance(made, Shifted)
    return made


def actions(env: Any, step: int) -> NDArray[np.float32]:
    shape = (env.num_envs, env.spec.n_agents, env.spec.act_dim)
    return np.random.default_rng(step).uniform(-1.0, 1.0, shape).astype(np.float32)


def played(env: Any, seed: int = 5, steps: int = STEPS) -> tuple[NDArray[Any], NDArray[Any]]:
    """Observations [steps + 1, E, N, O] and rewards [steps, E, N]; half of the rows begin anew on the way."""
    observations, rewards = [env.reset(seed)], []
    for t in range(steps):
        step = env.step(actions(env, t))
        rewards.append(step.rewards)
        observations.append(step.obs)
        if t == steps // 2:
            observations[-1] = env.reset(mask=np.arange(env.num_envs) % 2 == 0)
    return np.stack(observations), np.stack(rewards)


@pytest.mark.parametrize("case", NEUTRAL)
def test_neutral_parameters_change_no_bit(case: str) -> None:
    name, build = NEUTRAL[case]
    env = envs.make(name, ROWS)
    changed = Shifted(envs.make(name, ROWS), build(env.spec))
    for theirs, standard in zip(played(changed), played(env), strict=True):
        assert theirs.tobytes() == (standard + np.float32(0)).tobytes()  # adding noise of 0 turns -0 into 0


@pytest.mark.parametrize(("env", "name"), EVERY)
def test_every_shift_of_every_environment(env: str, name: str) -> None:
    """It changes something, repeats for a seed, starts where the standard one does, and says what it is."""
    standard, one = envs.make(env, ROWS), shifted(env, name)
    first, again, usual = played(one), played(one), played(standard)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(first, usual, strict=True))
    assert all(np.isfinite(array).all() for array in first)
    standard.reset(9)
    one.reset(9)
    for a, b in zip(one.env.state, standard.state, strict=True):  # type: ignore[attr-defined]
        assert np.array_equal(a[np.isfinite(a)], b[np.isfinite(a)])
    fact = one.spec.facts["shift"]
    assert fact["name"] == name
    assert one.spec.fingerprint != standard.spec.fingerprint
    assert dataclasses.replace(one.spec, facts=standard.spec.facts) == standard.spec


@pytest.mark.parametrize(
    ("env", "name"), [("tag", "speed"), ("halfcheetah", "extreme"), ("spread", "offline")]
)
def test_a_masked_reset_draws_for_its_rows_alone(env: str, name: str) -> None:
    one, mask = shifted(env, name, rows=32), np.arange(32) < 16
    before = {key: values.copy() for key, values in one.parameters.items()}
    one.reset(mask=mask)
    for key, values in one.parameters.items():
        assert np.array_equal(values[~mask], before[key][~mask])
        assert not np.array_equal(values[mask], before[key][mask])


def test_other_seeds_draw_other_parameters() -> None:
    one = shifted("tag", "speed")
    drawn = []
    for seed in (0, 1, np.random.SeedSequence(0, spawn_key=(3,))):
        one.reset(seed)
        drawn.append(one.parameters["v"].copy())
    assert len(np.unique(drawn)) == np.size(drawn)


@pytest.mark.parametrize(("env", "v_min"), [("tag", 0.4), ("world", 0.5), ("spread", 0.3), ("spread-4", 0.3)])
def test_speed_is_uniform_for_each_agent_and_scales_cap_or_force(env: str, v_min: float) -> None:
    inner, standard = envs.unguarded(env, 2000), envs.unguarded(env, 2000)
    one = Shifted(inner, shifts.speed(inner.spec))  # type: ignore[arg-type]
    v, agents = one.parameters["v"], one.spec.n_agents
    assert v.shape == (2000, agents)
    assert stats.kstest(v.ravel(), stats.uniform(v_min, 1.0 - v_min).cdf).pvalue > 0.01
    assert abs(np.corrcoef(v.T)[0, 1]) < 0.1
    capped = env in ("tag", "world")
    assert np.array_equal(
        inner.max_speed[:, :agents], standard.max_speed[:, :agents] * (v if capped else 1.0)
    )
    assert np.array_equal(inner.gain[:, :agents], standard.gain[:, :agents] * (1.0 if capped else v))
    assert np.array_equal(inner.max_speed[:, agents:], standard.max_speed[:, agents:])  # the prey's
    assert np.array_equal(inner.gain[:, agents:], standard.gain[:, agents:])


def test_dismissed_landmarks_pay_nothing_and_show_as_zero() -> None:
    """Against the reward's definition, over the landmarks that remain."""
    one = shifted("spread-6-landmarks", "dismiss", rows=50)
    dismissed = one.parameters["dismissed"]
    assert (dismissed.sum(axis=1) == 3).all()
    assert len(np.unique(dismissed, axis=0)) > 10
    standard: Any = envs.make("spread-6-landmarks", 50)
    full = standard.reset(4)
    seen = one.reset(4)
    for t in range(3):
        hidden = np.zeros(full.shape, bool)
        hidden[..., 4:16] = np.repeat(one.parameters["dismissed"], 2, axis=1)[:, None]
        assert (seen[hidden] == 0.0).all()
        assert np.array_equal(seen[~hidden], full[~hidden])
        ours, theirs = one.step(actions(one, t)), standard.step(actions(one, t))
        seen, full = ours.obs, theirs.obs
        agents, _, landmarks = standard.state
        nearest = np.linalg.norm(agents[:, :, None] - landmarks[:, None], axis=-1).min(axis=1)
        paid = np.where(one.parameters["dismissed"], np.minimum(1.0 / nearest, 10.0), 0.0).sum(axis=1)
        np.testing.assert_allclose(ours.rewards, theirs.rewards - paid[:, None], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("env", ["tag", "halfcheetah"])
def test_an_offline_agent_acts_as_if_it_sent_zeros(env: str) -> None:
    one, standard = shifted(env, "offline", rows=30), envs.make(env, 30)
    one.reset(2)
    standard.reset(2)
    power = one.parameters["power"]
    assert (power.sum(axis=1) == one.spec.n_agents - 1).all()
    assert (power == 0).any(axis=0).all()
    for t in range(STEPS):
        sent = actions(one, t)
        theirs = sent.copy()
        theirs[power == 0] = 0.0
        for a, b in zip(one.step(sent), standard.step(theirs), strict=True):
            assert np.array_equal(a, b)


def test_a_delayed_team_repeats_itself_one_step_later() -> None:
    one, standard = shifted("spread", "delay"), envs.make("spread", ROWS)
    one.reset(2)
    standard.reset(2)
    late = np.zeros_like(actions(one, 0))
    for t in range(STEPS):
        sent = actions(one, t)
        handed = sent.copy()
        for a, b in zip(one.step(handed), standard.step(late), strict=True):
            assert np.array_equal(a, b)
        handed[:] = np.nan  # the caller may reuse its array
        late = sent
    one.reset(mask=np.array([True, False, True, False]))
    before = one.env.state[1].copy()  # type: ignore[attr-defined]
    one.step(actions(one, 0))
    assert (one.env.state[1][[0, 2]] == 0.0).all()  # type: ignore[attr-defined]
    assert not np.array_equal(one.env.state[1][[1, 3]], before[[1, 3]])  # type: ignore[attr-defined]


def test_noise_is_on_what_is_seen_alone() -> None:
    one, standard = shifted("spread", "noise", rows=400), envs.make("spread", 400)
    difference = [one.reset(2) - standard.reset(2)]
    for t in range(3):
        noisy, clean = one.step(actions(one, t)), standard.step(actions(one, t))
        assert np.array_equal(noisy.rewards, clean.rewards)
        difference.append(noisy.obs - clean.obs)
    assert np.std(difference) == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(difference[0].ravel(), difference[1].ravel())[0, 1]) < 0.02
    assert np.array_equal(one.observe(), noisy.obs)


class Uneven:
    """Two agents, the second one sees less; nothing ever happens."""

    num_envs = 3
    spec = dataclasses.replace(envs.spec("spread"), agent_names=("a", "b"), obs_dims=(4, 2))

    def reset(self, seed: Any = None, mask: Any = None) -> NDArray[np.float32]:
        return np.zeros((3, 2, 4), np.float32)

    def step(self, actions: Any) -> Step:
        return Step(self.reset(), np.zeros((3, 2), np.float32), np.zeros(3, bool), np.zeros(3, bool))


def test_padding_stays_zero_under_noise() -> None:
    obs = Shifted(Uneven(), shifts.noise(Uneven.spec)).reset(0)
    assert (obs[:, 1, 2:] == 0.0).all()
    assert (obs[:, 0] != 0.0).all()
    assert (obs[:, 1, :2] != 0.0).all()


def test_the_prey_acts_uniformly_as_often_as_said() -> None:
    env: Any = envs.make("tag", 500)
    own = env.prey(env.prey_obs)
    for name, epsilon in (("prey-weak", 0.5), ("prey-uniform", 1.0)):
        shift = shifts.named(name, "tag", env.spec)
        assert shift.prey is not None
        acted = shift.prey(env, np.random.default_rng(0))
        replaced = (acted != own).any(axis=(1, 2))
        assert replaced.mean() == pytest.approx(epsilon, abs=0.06)
        assert stats.kstest(acted[replaced].ravel(), stats.uniform(-1.0, 2.0).cdf).pvalue > 0.01


def fields(model: mujoco.MjModel) -> dict[str, NDArray[Any]]:
    """Everything numeric of a compiled model."""
    names = [name for name in dir(model) if not name.startswith("_")]
    found = {name: getattr(model, name) for name in names}
    option = {f"opt.{name}": getattr(model.opt, name) for name in dir(model.opt) if not name.startswith("_")}
    kinds = (np.ndarray, int, float)
    return {name: np.asarray(v).copy() for name, v in (found | option).items() if isinstance(v, kinds)}


def test_default_values_compile_to_the_standard_model() -> None:
    standard, ours = fields(halfcheetah.standard_model()), fields(shifts_halfcheetah.edited(0.9, 0.8, 1000.0))
    assert standard.keys() == ours.keys()
    assert len(standard) > 300
    assert [name for name, value in standard.items() if not np.array_equal(value, ours[name])] == []


def test_relative_values_scale_the_standard_model() -> None:
    standard, model = halfcheetah.standard_model(), shifts_halfcheetah.edited(1.08, 0.4, 1250.0)
    torso = standard.body("torso").id
    others = [i for i in range(standard.nbody) if i != torso]
    np.testing.assert_allclose(model.actuator_gear[:, 0], 1.2 * standard.actuator_gear[:, 0])
    np.testing.assert_allclose(model.geom_friction, standard.geom_friction * [0.5, 1.0, 1.0])
    assert model.body_mass[torso] == 1.25 * standard.body_mass[torso]
    np.testing.assert_array_equal(model.body_inertia[torso], 1.25 * standard.body_inertia[torso])
    np.testing.assert_array_equal(model.body_mass[others], standard.body_mass[others])
    assert model.body_subtreemass[torso] == pytest.approx(14.0 + 0.25 * standard.body_mass[torso])
    assert not np.array_equal(model.dof_invweight0, standard.dof_invweight0)  # derived quantities follow


def test_absolute_values_are_what_the_compiler_makes_of_them() -> None:
    spec = mujoco.MjSpec.from_file(str(halfcheetah.xml()))
    spec.compiler.settotalmass = -1.0
    for geom in spec.geoms:
        geom.friction = [0.7, 0.1, 0.1]
        if geom.name in ("torso", "head"):
            geom.density = 600.0
    for actuator in spec.actuators:
        actuator.gear[0] *= 0.6
    compiled = spec.compile()
    compiled.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    theirs, ours = fields(compiled), fields(shifts_halfcheetah.edited(0.6, 0.7, 600.0, "absolute"))
    differ = [name for name in theirs if not np.allclose(theirs[name], ours[name], rtol=1e-12, atol=1e-12)]
    assert differ == []
    assert ours["body_mass"].sum() != pytest.approx(14.0, abs=0.5)


def test_a_density_alone_would_be_cancelled() -> None:
    """Why masses are changed after compilation: the file's settotalmass keeps the total."""
    spec = mujoco.MjSpec.from_file(str(halfcheetah.xml()))
    for geom in spec.geoms:
        if geom.name in ("torso", "head"):
            geom.density = 1500.0
    assert spec.compile().body_mass.sum() == pytest.approx(14.0)


def test_each_row_moves_as_its_own_model_says() -> None:
    """Bit for bit what one MjData of that model does."""
    one = shifted("halfcheetah", "extreme", rows=3)
    inner: Any = one.env
    one.reset(8)
    for _ in range(2):  # the second time with other models in rows that have moved
        datas = []
        for row in range(3):
            drawn = {name: float(values[row]) for name, values in one.parameters.items()}
            model = shifts_halfcheetah.edited(**drawn)
            data = mujoco.MjData(model)
            data.qpos[:], data.qvel[:] = inner.state[0][row], inner.state[1][row]
            datas.append((model, data))
        for t in range(20):
            sent = actions(one, t)
            one.step(sent)
            for row, (model, data) in enumerate(datas):
                data.ctrl[:] = sent[row].reshape(-1)
                mujoco.mj_step(model, data, halfcheetah.FRAME_SKIP)
                np.testing.assert_array_equal(inner.state[0][row], data.qpos)
                np.testing.assert_array_equal(inner.state[1][row], data.qvel)
        one.reset()


@pytest.mark.parametrize("level", ["random", "extreme"])
def test_draws_follow_the_published_ranges(level: str) -> None:
    """Extreme leaves out the whole of random, and has half of its mass on either side."""
    shift = shifts.named(level, "halfcheetah", envs.spec("halfcheetah"))
    drawn = shift.draw(np.random.default_rng(0), 4000)
    random = {"power": (0.7, 1.1), "friction": (0.5, 1.1), "density": (750.0, 1250.0)}
    extreme = {"power": (0.5, 1.3), "friction": (0.2, 1.4), "density": (500.0, 1500.0)}
    for name, values in drawn.items():
        (low, high), (a, b) = random[name], extreme[name]
        if level == "random":
            assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01
            continue
        below, above = values[values < low], values[values >= high]
        assert len(below) + len(above) == 4000
        assert len(below) == pytest.approx(2000, abs=150)
        assert stats.kstest(below, stats.uniform(a, low - a).cdf).pvalue > 0.01
        assert stats.kstest(above, stats.uniform(high, b - high).cdf).pvalue > 0.01
    assert np.abs(np.corrcoef([*drawn.values()]) - np.eye(3)).max() < 0.06


def test_unknown_modes_and_shifts_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a mode"):
        shifts_halfcheetah.edited(0.9, 0.8, 1000.0, "sideways")  # type: ignore[arg-type]
    for env, name in (("tag", "ice"), ("tag", "extreme"), ("halfcheetah", "speed"), ("spread", "dismiss")):
        with pytest.raises(
            ValueError, match=rf"^expected a shift of {env} \(none, .*\), found '{name}'$"
        ) as error:
            envs.make(env, shift=name)
        assert "\n" not in str(error.value)
    assert isinstance(envs.make("tag", shift="none"), type(envs.make("tag")))
    assert shifts.applying("tag-like:make") == ("offline", "noise", "delay")  # a user's own environment


def test_episodes_are_collected_like_standard_ones() -> None:
    one = shifted("tag", "speed")
    found = play(one, one.reset(0), acting(Uniform(2), torch.Generator().manual_seed(0)))
    assert found.observations.shape == (ROWS, 26, 3, 16)


def test_python_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a row for every shift of tag, the standard environment first."""
    exec(pages.python("shifts.md").replace('"tag", 2000', '"tag", 4'), {})
    names = [line.split(" | ")[0].strip("| ") for line in capsys.readouterr().out.splitlines()]
    assert names == ["none", *shifts.applying("tag")]
    page = (pages.DOCS / "shifts.md").read_text()
    documented = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", page, flags=re.M))))
    assert documented == set(shifts.SHIFTS)


def test_the_table_is_cheap_to_import() -> None:
    code = "import sys, dom2data.envs.shifts; print({'torch', 'numba', 'mujoco'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
    assert isinstance(shifts.delay(envs.spec("tag")), Shift)
