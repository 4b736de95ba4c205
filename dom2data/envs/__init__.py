"""Environments by name: ``make("tag", num_envs=64)``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dom2_policies import zoo

if TYPE_CHECKING:
    from dom2_policies.policy import Policy
    from dom2data.envs.foreign import ForeignEnv
    from dom2data.envs.halfcheetah import HalfCheetahEnv
    from dom2data.envs.particle import ParticleEnv, Scenario
    from dom2data.spec import EnvSpec, VectorEnv

AnEnv = TypeVar("AnEnv", bound="VectorEnv")

NAMES = ("tag", "world", "spread", "halfcheetah")
"""The four tasks of the published datasets, for which behaviour policies are shipped."""

# Name -> (module, options); imported on first use, because numba and MuJoCo take half a second.
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
"""Variants of these tasks on the same simulators."""
KNOWN = (*NAMES, *VARIANTS)


def task(name: str) -> str:
    """Return the task of a variant (halfcheetah-mamujoco: halfcheetah); any other name is unchanged."""
    return next(each for each in NAMES if name.startswith(f"{each}-")) if name in VARIANTS else name


def is_foreign(name: str) -> bool:
    """Whether ``name`` is a user's own environment, ``module:make``, whose episodes may end early."""
    return ":" in name


def _scenario(name: str) -> Scenario:
    if name not in _PARTICLE:
        known = ", ".join(KNOWN)
        hint = f"; name its callable, {name}:make" if name.endswith(".py") else ""
        raise ValueError(
            f"expected an environment ({known}), module:make or file.py:make, found {name!r}{hint}"
        )
    module, options = _PARTICLE[name]
    return importlib.import_module(module).scenario(**options)


def _prey_id(name: str, scenario: Scenario) -> str:
    return zoo.sha256(name, "prey") if scenario.has_prey else ""


def spec(name: str) -> EnvSpec:
    """Return the spec of the standard environment.

    Raises ValueError for an unknown name, and UserError like ``foreign.spec`` for a user's own.
    """
    if is_foreign(name):
        from dom2data.envs import foreign

        return foreign.spec(name)
    if name in _HALFCHEETAH:
        from dom2data.envs import halfcheetah

        return halfcheetah.spec(name, **_HALFCHEETAH[name])
    scenario = _scenario(name)
    return scenario.spec(_prey_id(name, scenario))


@overload
def make(
    name: str, num_envs: int = 1, shift: None = None, seed: Any = 0, prey: Policy | None = None
) -> ParticleEnv | HalfCheetahEnv | ForeignEnv: ...


@overload
def make(
    name: str, num_envs: int = 1, *, shift: str | None, seed: Any = 0, prey: Policy | None = None
) -> VectorEnv: ...


def make(
    name: str, num_envs: int = 1, shift: str | None = None, seed: Any = 0, prey: Policy | None = None
) -> VectorEnv:
    """Make E rows of an environment, with its frozen prey or with ``prey``.

    With a ``shift`` from the table in ``dom2data.envs.shifts``, returns a ``Shifted``, whose ``parameters``
    are those drawn. Raises ValueError for an unknown name, or a shift that does not apply.
    """
    env = _standard(name, num_envs, seed, prey)
    if shift in (None, "none"):
        return env
    from dom2data.envs import shifts

    return shifts.Shifted(env, shifts.named(shift, name, env.spec), seed)


def _standard(
    name: str, num_envs: int, seed: Any, prey: Policy | None
) -> ParticleEnv | HalfCheetahEnv | ForeignEnv:
    if is_foreign(name):
        from dom2data.envs.foreign import ForeignEnv

        return ForeignEnv(name, num_envs, seed)
    if name in _HALFCHEETAH:
        from dom2data.envs.halfcheetah import HalfCheetahEnv

        return HalfCheetahEnv(num_envs, seed, name, **_HALFCHEETAH[name])
    from dom2data.envs.particle import ParticleEnv

    scenario = _scenario(name)
    if not scenario.has_prey:
        return ParticleEnv(scenario, num_envs, seed, None, "")
    if prey is not None:
        import torch

        from dom2_policies.policy import acting

        given = acting(prey, torch.Generator(), deterministic=True)
        return ParticleEnv(scenario, num_envs, seed, given, "given")
    from dom2_policies import frozen

    own = frozen.load(zoo.path(name, "prey"))
    return ParticleEnv(scenario, num_envs, seed, own, _prey_id(name, scenario))


def close(env: VectorEnv) -> None:
    """Close a user's own environments, also under a shift; built-in ones need no closing."""
    env = getattr(env, "env", env)
    if hasattr(env, "close"):
        env.close()


@contextmanager
def closing(env: AnEnv) -> Iterator[AnEnv]:
    """Yield ``env`` and close it at the end."""
    try:
        yield env
    finally:
        close(env)


def unguarded(name: str, num_envs: int = 1, seed: Any = 0) -> ParticleEnv:
    """Make the environment without its own prey: ``step`` must be given the prey's actions."""
    from dom2data.envs.particle import ParticleEnv

    return ParticleEnv(_scenario(name), num_envs, seed, None, "none")
