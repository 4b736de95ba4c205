"""Environments by name: ``make("tag", num_envs=64)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dom2_policies import zoo

if TYPE_CHECKING:
    from dom2_policies.policy import Policy
    from dom2data.envs.particle import ParticleEnv, Scenario
    from dom2data.spec import EnvSpec

# Name -> module with a SCENARIO; imported when first used, because numba takes half a second.
_SCENARIOS = {
    "tag": "dom2data.envs.tag",
    "world": "dom2data.envs.world",
    "spread": "dom2data.envs.spread",
}
NAMES = ("tag",)
"""What the commands offer: those with a prey and behaviour policies. The physics of all is complete."""


def _scenario(name: str) -> Scenario:
    if name not in _SCENARIOS:
        raise ValueError(f"expected an environment ({', '.join(NAMES)}), found {name!r}")
    return importlib.import_module(_SCENARIOS[name]).SCENARIO


def _prey_id(name: str, scenario: Scenario) -> str:
    return zoo.sha256(name, "prey") if scenario.has_prey else ""


def spec(name: str) -> EnvSpec:
    """The standard environment's spec, without building it. Raises ValueError for an unknown name."""
    scenario = _scenario(name)
    return scenario.spec(_prey_id(name, scenario))


def make(
    name: str, num_envs: int = 1, shift: str | None = None, seed: Any = 0, prey: Policy | None = None
) -> ParticleEnv:
    """E rows of an environment, with its frozen prey or with ``prey``.

    Raises ValueError for an unknown name or shift.
    """
    from dom2data.envs.particle import ParticleEnv

    scenario = _scenario(name)
    if shift not in (None, "none"):
        raise ValueError(f"expected a shift (none), found {shift!r}")
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
