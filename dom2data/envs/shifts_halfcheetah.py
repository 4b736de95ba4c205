"""HalfCheetah with different power, friction and torso density in each episode, after Packer et al. 2018.

Their values belong to another simulator, whose defaults are power 0.9, friction 0.8 and density 1000. Mode
``relative`` scales the standard model by value / default; ``absolute`` uses the values themselves. The model
file makes the compiler scale all masses to a total of 14 (``settotalmass``), so changing a density there
would only move mass between bodies. Therefore the compiled torso is changed, and ``absolute`` uses a model
without this scaling.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, Literal, get_args

import mujoco
import numpy as np
from numpy.typing import NDArray

from dom2data.envs import halfcheetah
from dom2data.envs.halfcheetah import HalfCheetahEnv
from dom2data.envs.shifts import Parameters, Rng, Shift
from dom2data.spec import EnvSpec

Mode = Literal["relative", "absolute"]
Intervals = tuple[tuple[float, float], ...]

# Packer et al. 2018, released environments: half-open intervals; drawn independently at each reset.
RANGES: dict[str, dict[str, Intervals]] = {
    "random": {
        "power": ((0.7, 1.1),),
        "friction": ((0.5, 1.1),),
        "density": ((750.0, 1250.0),),
    },
    "extreme": {
        "power": ((0.5, 0.7), (1.1, 1.3)),
        "friction": ((0.2, 0.5), (1.1, 1.4)),
        "density": ((500.0, 750.0), (1250.0, 1500.0)),
    },
}
# Values that leave the base model unchanged: their defaults, or the values in the model file.
NEUTRAL: dict[str, dict[str, float]] = {
    "relative": {"power": 0.9, "friction": 0.8, "density": 1000.0},
    "absolute": {"power": 1.0, "friction": 0.4, "density": 1000.0},
}


@cache
def unscaled_model() -> mujoco.MjModel:
    """Return the standard model without ``settotalmass``: 21.2 kg instead of 14."""
    spec = mujoco.MjSpec.from_file(str(halfcheetah.xml()))
    spec.compiler.settotalmass = -1.0
    model = spec.compile()
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


def edited(power: float, friction: float, density: float, mode: Mode = "relative") -> mujoco.MjModel:
    """Return a copy of the mode's base model with these values. Raises ValueError for an unknown mode."""
    if mode not in get_args(Mode):
        raise ValueError(f"expected a mode ({', '.join(get_args(Mode))}), found {mode!r}")
    at = NEUTRAL[mode]
    base = halfcheetah.standard_model() if mode == "relative" else unscaled_model()
    model = copy.copy(base)
    model.actuator_gear[:, 0] *= power / at["power"]
    model.geom_friction[:, 0] *= friction / at["friction"]  # sliding friction only
    torso = model.body("torso").id  # has the geoms of torso and head
    model.body_mass[torso] *= density / at["density"]
    model.body_inertia[torso] *= density / at["density"]
    mujoco.mj_setConst(model, mujoco.MjData(model))  # recompute what derives from masses
    return model


def uniform(rng: Rng, intervals: Intervals, n: int) -> NDArray[np.float64]:
    """Draw n values uniformly from a union of disjoint, ascending intervals."""
    low, high = np.array(intervals).T
    before = np.concatenate(([0.0], np.cumsum(high - low)))
    u = rng.uniform(0.0, before[-1], n)
    piece = np.minimum(np.searchsorted(before, u, side="right") - 1, len(intervals) - 1)
    return low[piece] + (u - before[piece])


def packer(
    spec: EnvSpec, level: str, mode: str = "relative", ranges: dict[str, Intervals] | None = None
) -> Shift:
    """Give each episode its own model, with values drawn from ``ranges`` (by default those of ``level``)."""
    chosen = RANGES[level] if ranges is None else ranges

    def draw(rng: Rng, n: int) -> Parameters:
        return {name: uniform(rng, intervals, n) for name, intervals in chosen.items()}

    def apply(env: HalfCheetahEnv, rows: NDArray[Any], drawn: Parameters) -> None:
        for i, row in enumerate(rows):
            values = {name: float(drawn[name][i]) for name in chosen}
            env.models[row] = edited(**values, mode=mode)  # type: ignore[arg-type]

    name = level if mode == "relative" else f"{level}-{mode}"
    listed = {key: [list(interval) for interval in intervals] for key, intervals in chosen.items()}
    return Shift(name, {"mode": mode} | listed, draw, apply)
