"""Render environments without a graphics driver."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dom2data.envs.halfcheetah import HalfCheetahEnv
from dom2data.envs.particle import ParticleEnv
from dom2data.envs.shifts import Shifted

Picture = NDArray[np.uint8]
"""[400, 400, 3]"""
SIZE = 400
_SMOOTH = 2  # factor to draw larger before scaling down, for smooth edges
_PIXELS = SIZE * _SMOOTH
_PAPER, _INK, _EDGE, _ROCK, _OPEN = "#fbfaf7", "#55524b", "#d8d4ca", "#8d99a6", "#a3c993"
_LEARNER, _PREY, _TOUCH = "#c8503c", "#2f8f5b", "#f2b705"
_LEGS = {"b": _LEARNER, "f": "#3f6fb0"}


@singledispatch
def draw(env: Any, row: int) -> Picture:
    """Draw one row as uint8 [400, 400, 3]. Raises TypeError for an environment that cannot be drawn."""
    name = getattr(env, "name", type(env).__name__)  # a user's own
    raise TypeError(f"expected an environment of this project, found {name}: it has no picture")


@draw.register
def _shifted(env: Shifted, row: int) -> Picture:
    return draw(env.env, row)


@draw.register
def _particles(env: ParticleEnv, row: int) -> Picture:
    """Top view: learners red, prey green (ringed when touched), rocks grey, other landmarks light green."""
    agents, _, landmarks = (array[row] for array in env.state)
    scenario = env.scenario
    half_width = 1.6 * scenario.agent_range  # agents may leave the square in which they start
    image, pen = _canvas()
    scale = _PIXELS / (2 * half_width)

    def box(centre: NDArray[np.float64], radius: float) -> tuple[float, float, float, float]:
        x, y = (centre[0] + half_width) * scale, (half_width - centre[1]) * scale
        return x - radius * scale, y - radius * scale, x + radius * scale, y + radius * scale

    pen.rectangle(box(np.zeros(2), scenario.agent_range), outline=_EDGE, width=2 * _SMOOTH)
    for centre, radius, solid in zip(
        landmarks, scenario.landmark_sizes, scenario.landmark_collides, strict=True
    ):
        if np.isfinite(centre).all():  # a dismissed landmark is infinitely far away
            pen.ellipse(box(centre, radius), fill=_ROCK if solid else _OPEN)
    n_learn = len(scenario.agent_names)
    for i, (centre, radius) in enumerate(zip(agents, scenario.sizes, strict=True)):
        pen.ellipse(box(centre, radius), fill=_LEARNER if i < n_learn else _PREY)
    for prey in range(n_learn, len(agents)):
        reach = [scenario.sizes[prey] + size for size in scenario.sizes[:n_learn]]
        if (np.linalg.norm(agents[:n_learn] - agents[prey], axis=1) < reach).any():
            pen.ellipse(box(agents[prey], 2.2 * scenario.sizes[prey]), outline=_TOUCH, width=3 * _SMOOTH)
    return _finished(image)


@draw.register
def _cheetah(env: HalfCheetahEnv, row: int) -> Picture:
    """Side view, following the torso: the back agent's leg red, the front agent's blue."""
    model = env.models[row]
    data = mujoco.MjData(model)
    data.qpos[:] = env.state[0][row]
    mujoco.mj_kinematics(model, data)
    image, pen = _canvas()
    scale, ground = _PIXELS / 3.2, 0.72 * _PIXELS  # 3.2 m wide
    camera = data.body("torso").xpos[0]

    def at(x: float, z: float) -> tuple[float, float]:
        return _PIXELS / 2 + (x - camera) * scale, ground - z * scale

    pen.rectangle((0, ground, _PIXELS, _PIXELS), fill=_EDGE)
    for metre in range(int(np.floor(camera)) - 2, int(np.ceil(camera)) + 3):
        x, y = at(metre, 0.0)
        pen.line((x, y, x, y + 8 * _SMOOTH), fill=_INK, width=_SMOOTH)
        pen.text((x, y + 12 * _SMOOTH), f"{metre} m", fill=_INK, font=_font(12 * _SMOOTH), anchor="mt")
    for i in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE):
        radius, half_length = model.geom_size[i, :2]
        along = half_length * data.geom_xmat[i].reshape(3, 3)[[0, 2], 2]
        ends = [at(*(data.geom_xpos[i, [0, 2]] + sign * along)) for sign in (-1, 1)]
        colour = _LEGS.get(model.body(model.geom_bodyid[i]).name[0], _ROCK)
        pen.line((*ends[0], *ends[1]), fill=colour, width=round(2 * radius * scale))
        for x, y in ends:
            r = radius * scale
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return _finished(image)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (_PIXELS, _PIXELS), _PAPER)
    return image, ImageDraw.Draw(image)


def _finished(image: Image.Image) -> Picture:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
