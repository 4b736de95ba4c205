"""Shifted environments: changes of the environment between the data and an evaluation.

A ``Shift`` is a small set of functions, ``Shifted`` an environment with a shift applied, and ``SHIFTS`` the
table of named shifts. Sources: DOM2, section 5, for the speed of particles and for HalfCheetah's ``random``
and ``extreme`` (after Packer et al. 2018); DOM2, Figure 1, for the dismissed landmarks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs
from dom2data.spec import Bool, EnvSpec, Float32, Step, VectorEnv

if TYPE_CHECKING:
    from dom2data.envs.particle import ParticleEnv

Parameters = dict[str, NDArray[Any]]
"""Name -> values [episodes, ...]."""
Rng = np.random.Generator

_STREAM = 0x5817F7  # spawn key, below a reset's seed, of the shift's own randomness


@dataclass(frozen=True)
class Shift:
    """One change of an environment; functions that are not given change nothing.

    ``constants`` are JSON values that describe the distribution of the parameters. ``draw(rng, n)`` draws the
    parameters of n episodes; ``apply(env, rows, drawn)`` writes them into these rows after their reset.
    ``act`` and ``see`` map actions [E, N, A] and observations [E, N, O], given the parameters of all rows.
    """

    name: str
    constants: dict[str, Any]
    draw: Callable[[Rng, int], Parameters] = lambda rng, n: {}
    apply: Callable[[Any, NDArray[Any], Parameters], None] = lambda env, rows, drawn: None
    act: Callable[[Float32, Parameters], Float32] = lambda actions, parameters: actions
    see: Callable[[Float32, Parameters, Rng], Float32] = lambda obs, parameters, rng: obs
    prey: Callable[[ParticleEnv, Rng], Float32] | None = None
    """Gives the prey's actions [E, 1, 2], in place of its own policy."""
    delay: int = 0
    """Number of steps by which actions are delayed; until then they are zero."""


class Shifted:
    """E rows of ``env`` under a shift (``dom2data.spec.VectorEnv``).

    ``parameters`` hold what was drawn for each row's current episode, [E, ...] by name. They have a separate
    random stream, so initial states are those of the standard environment with the same seed.
    """

    def __init__(self, env: VectorEnv, shift: Shift, seed: Any = 0):
        self.env, self.shift, self.num_envs = env, shift, env.num_envs
        described = {"name": shift.name} | shift.constants
        self.spec = dataclasses.replace(env.spec, facts=env.spec.facts | {"shift": described})
        shape = (env.num_envs, env.spec.n_agents)
        self.parameters: Parameters = {}
        self._obs = np.zeros((*shape, env.spec.obs_dim), np.float32)
        self._late = np.zeros((shift.delay, *shape, env.spec.act_dim), np.float32)
        self._draws, self._noise = _streams(seed)
        self.reset(seed)

    def reset(self, seed: int | np.random.SeedSequence | None = None, mask: Bool | None = None) -> Float32:
        """Start new episodes with new parameters in the rows of ``mask`` [E]; return obs [E, N, O]."""
        if seed is not None:
            self._draws, self._noise = _streams(seed)
        obs = self.env.reset(seed, mask)
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        drawn = self.shift.draw(self._draws, len(rows))
        for name, values in drawn.items():
            whole = np.zeros((self.num_envs, *values.shape[1:]), values.dtype)
            self.parameters.setdefault(name, whole)[rows] = values
        self.shift.apply(self.env, rows, drawn)
        self._late[:, rows] = 0.0
        self._obs[rows] = self.shift.see(obs, self.parameters, self._noise)[rows]
        return self.observe()

    def step(self, actions: Float32) -> Step:
        """Advance all rows by actions [E, N, A], after the shift has modified them."""
        queue = np.concatenate((self._late, np.asarray(actions, np.float32)[None]))
        self._late = queue[1:]
        acting = self.shift.act(queue[0], self.parameters)
        if self.shift.prey is None:
            step = self.env.step(acting)
        else:
            step = self.env.step(acting, self.shift.prey(self.env, self._noise))  # type: ignore[call-arg, arg-type]
        self._obs = self.shift.see(step.obs, self.parameters, self._noise)
        return step._replace(obs=self.observe())

    def observe(self) -> Float32:
        """Return the current observations [E, N, O], as last returned by ``reset`` or ``step``."""
        return self._obs.copy()


def _streams(seed: Any) -> list[Rng]:
    """Return generators for the parameters of episodes, and for the draws within episodes."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    own = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, _STREAM))
    return [np.random.default_rng(child) for child in own.spawn(2)]


V_MIN = {"tag": 0.4, "world": 0.5, "spread": 0.3}
"""DOM2, section 5.2: the slowest speed at which the team can still do its task."""


def speed(spec: EnvSpec, v_min: float | None = None) -> Shift:
    """Scale each agent's top speed by v ~ U[v_min, 1] per episode; in spread, without top speed, its force.

    Raises ValueError if the environment has no default ``v_min`` and none is given.
    """
    v_min = V_MIN.get(envs.task(spec.env_id)) if v_min is None else v_min
    if v_min is None:
        raise ValueError(f"expected v_min for {spec.env_id}, found none; {', '.join(V_MIN)} have their own")

    def draw(rng: Rng, n: int) -> Parameters:
        return {"v": rng.uniform(v_min, 1.0, (n, spec.n_agents))}

    def apply(env: ParticleEnv, rows: NDArray[Any], drawn: Parameters) -> None:
        standard, capped = env.scenario, math.isfinite(env.scenario.max_speed[0])
        scaled = env.max_speed if capped else env.gain
        values = standard.max_speed if capped else standard.gain
        scaled[rows, : spec.n_agents] = np.array(values[: spec.n_agents]) * drawn["v"]

    return Shift("speed", {"v_min": v_min, "v_max": 1.0}, draw, apply)


def dismiss(spec: EnvSpec, count: int = 3) -> Shift:
    """Move ``count`` random landmarks infinitely far away in each episode, so that they pay nothing.

    The paper does not say how a policy observes them. Here they appear at (0, 0), like a landmark that the
    observer already occupies: this gives it no reason to move, and occurs in the data.
    """
    total = len(spec.facts["landmark_sizes"])

    def draw(rng: Rng, n: int) -> Parameters:
        return {"dismissed": rng.permuted(np.tile(np.arange(total) < count, (n, 1)), axis=1)}

    def apply(env: ParticleEnv, rows: NDArray[Any], drawn: Parameters) -> None:
        env.landmark_pos[rows] = np.where(drawn["dismissed"][..., None], np.inf, env.landmark_pos[rows])

    def see(obs: Float32, parameters: Parameters, rng: Rng) -> Float32:
        obs, hidden = obs.copy(), np.repeat(parameters["dismissed"], 2, axis=1)[:, None]
        landmarks = obs[..., 4 : 4 + 2 * total]
        landmarks[...] = np.where(hidden, 0.0, landmarks)
        return obs

    return Shift("dismiss", {"dismissed": count, "landmarks": total}, draw, apply, see=see)


def offline(spec: EnvSpec, count: int = 1) -> Shift:
    """Set the actions of ``count`` random agents to zero in each episode."""

    def draw(rng: Rng, n: int) -> Parameters:
        return {"power": rng.permuted(np.tile(np.arange(spec.n_agents) >= count, (n, 1)), axis=1).astype(int)}

    def act(actions: Float32, parameters: Parameters) -> Float32:
        return actions * parameters["power"][..., None].astype(np.float32)

    return Shift("offline", {"agents": count}, draw, act=act)


def prey(spec: EnvSpec, epsilon: float, name: str = "prey") -> Shift:
    """Let the prey act uniformly, with probability ``epsilon`` at each step, instead of by its policy."""

    def act(env: ParticleEnv, rng: Rng) -> Float32:
        assert env.prey is not None
        own = env.prey(env.prey_obs)
        uniform = rng.uniform(-1.0, 1.0, own.shape).astype(np.float32)
        return np.where(rng.random((len(own), 1, 1)) < epsilon, uniform, own)

    return Shift(name, {"epsilon": epsilon}, prey=act)


def noise(spec: EnvSpec, sigma: float = 0.1) -> Shift:
    """Add Gaussian noise to every entry of every observation; rewards and physics are not affected."""
    real = np.arange(spec.obs_dim) < np.array(spec.obs_dims)[:, None]  # padding gets no noise

    def see(obs: Float32, parameters: Parameters, rng: Rng) -> Float32:
        return obs + np.float32(sigma) * rng.standard_normal(obs.shape, np.float32) * real

    return Shift("noise", {"sigma": sigma}, see=see)


def delay(spec: EnvSpec, steps: int = 1) -> Shift:
    """Apply actions ``steps`` steps late; the first ones are zero."""
    return Shift("delay", {"steps": steps}, delay=steps)


def _packer(spec: EnvSpec, level: str, mode: str = "relative") -> Shift:
    from dom2data.envs import shifts_halfcheetah  # MuJoCo takes half a second to import

    return shifts_halfcheetah.packer(spec, level, mode)


@dataclass(frozen=True)
class Named:
    """A row of the table of shifts."""

    envs: tuple[str, ...]
    """environments, or tasks with all their variants; empty: every environment, including users' own"""
    description: str
    build: Callable[[EnvSpec], Shift]

    def applies(self, env: str) -> bool:
        return not self.envs or env in self.envs or envs.task(env) in self.envs


SHIFTS: dict[str, Named] = {
    "speed": Named(("tag", "world", "spread"), "each agent is slower by a factor of its own", speed),
    "dismiss": Named(("spread-6-landmarks",), "three of the six landmarks do not count", dismiss),
    "random": Named(
        ("halfcheetah",), "power, friction and torso density vary", partial(_packer, level="random")
    ),
    "extreme": Named(
        ("halfcheetah",), "the same, beyond the range of random", partial(_packer, level="extreme")
    ),
    "random-absolute": Named(
        ("halfcheetah",),
        "random with the published values themselves, not relative to their default",
        partial(_packer, level="random", mode="absolute"),
    ),
    "extreme-absolute": Named(
        ("halfcheetah",),
        "extreme with the published values themselves",
        partial(_packer, level="extreme", mode="absolute"),
    ),
    "offline": Named((), "one agent's actions do nothing", offline),
    "prey-weak": Named(
        ("tag", "world"),
        "the prey acts uniformly in half of the steps",
        partial(prey, epsilon=0.5, name="prey-weak"),
    ),
    "prey-uniform": Named(
        ("tag", "world"), "the prey acts uniformly", partial(prey, epsilon=1.0, name="prey-uniform")
    ),
    "noise": Named((), "Gaussian noise on observations", noise),
    "delay": Named((), "actions come one step late", delay),
}


def applying(env: str) -> tuple[str, ...]:
    """Return the names of the shifts that apply to an environment."""
    return tuple(name for name, shift in SHIFTS.items() if shift.applies(env))


def named(name: str, env: str, spec: EnvSpec) -> Shift:
    """Build a named shift for an environment. Raises ValueError if no shift of that name applies to it."""
    if name not in applying(env):
        raise ValueError(f"expected a shift of {env} (none, {', '.join(applying(env))}), found {name!r}")
    return SHIFTS[name].build(spec)
