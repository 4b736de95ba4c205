"""Environments by name: ``make("tag", num_envs=64)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dom2_policies import zoo

if TYPE_CHECKING:
    from dom2_policies.policy import Policy
    from dom2data.envs.halfcheetah import HalfCheetahEnv
    from dom2data.envs.particle import ParticleEnv, Scenario
    from dom2data.spec import EnvSpec

NAMES = ("tag", "world", "spread", "halfcheetah")
"""The four tasks of the published datasets, all of them with behaviour policies."""

# Name -> (module, options); imported when first used, because numba and MuJoCo take half a second.
_PARTICLE: dict[str, tuple[str, dict[str, Any]]] = {
    "tag": ("dom2data.envs.tag", {}),
    "world": ("dom2data.envs.world", {}),
    "spread": ("dom2data.envs.spread", {}),
} | {
    name: ("dom2data.envs.spread", {"env_id": name} | options)
    for name, options in (
        ("spread-6-landmarks", {"n_landmarks": 6}),
        *((f"spread-{n}", {"n_agents": n, "n_landmarks": n}) for n in range(4, 11)),
    )
}
_HALFCHEETAH: dict[str, dict[str, Any]] = {
    "halfcheetah": {},
    "halfcheetah-mamujoco": {"obs_style": "mamujoco_v1"},
}
VARIANTS = tuple(name for name in (*_PARTICLE, *_HALFCHEETAH) if name not in NAMES)
"""Further tasks on the same simulators."""


def _scenario(name: str) -> Scenario:
    if name not in _PARTICLE:
        known = ", ".join((*NAMES, *VARIANTS))
        raise ValueError(f"expected an environment ({known}), found {name!r}")
    module, options = _PARTICLE[name]
    return importlib.import_module(module).scenario(**options)


def _prey_id(name: str, scenario: Scenario) -> str:
    return zoo.sha256(name, "prey") if scenario.has_prey else ""


def spec(name: str) -> EnvSpec:
    """The standard environment's spec, without building it. Raises ValueError for an unknown name."""
    if name in _HALFCHEETAH:
        from dom2data.envs import halfcheetah

        return halfcheetah.spec(name, **_HALFCHEETAH[name])
    scenario = _scenario(name)
    return scenario.spec(_prey_id(name, scenario))


def make(
    name: str, num_envs: int = 1, shift: str | None = None, seed: Any = 0, prey: Policy | None = None
) -> ParticleEnv | HalfCheetahEnv:
    """E rows of an environment, with its frozen prey or with ``prey``.

    Raises ValueError for an unknown name or shift.
    """
    if shift not in (None, "none"):
        raise ValueError(f"expected a shift (none), found {shift!r}")
    if name in _HALFCHEETAH:
        from dom2data.envs.halfcheetah import HalfCheetahEnv

        return HalfCheetahEnv(num_envs, seed, name, **_HALFCHEETAH[name])
    from dom2data.envs.particle import ParticleEnv

    scenario = _scenario(name)
    if not scenario.has_prey:
        return ParticleEnv(scenario, num_envs, seed, None, "")
    if prey is not None:
        return ParticleEnv(scenario, num_envs, seed, prey, "given")
    from dom2_policies.policy import load_actor

    return ParticleEnv(scenario, num_envs, seed, load_actor(zoo.path(name, "prey")), _prey_id(name, scenario))


def unguarded(name: str, num_envs: int = 1, seed: Any = 0) -> ParticleEnv:
    """The environment without a prey of its own: ``step`` must be given the prey's actions."""
    from dom2data.envs.particle import ParticleEnv

    return ParticleEnv(_scenario(name), num_envs, seed, None, "none")
