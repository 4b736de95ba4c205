"""Pictures of particle environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dom2data import envs

if TYPE_CHECKING:
    from dom2_policies.policy import Policy
    from dom2data.envs.particle import ParticleEnv

SIZE = 400
_HALF_WIDTH = 1.6  # arena units from the centre to the picture's edge
_SMOOTH = 2  # drawn this much larger and scaled down, for smooth edges
_PAPER, _EDGE, _ROCK, _OPEN = "#fbfaf7", "#d8d4ca", "#8d99a6", "#b5d3a8"
_LEARNER, _PREY, _TOUCH = "#c8503c", "#2f8f5b", "#f2b705"


def draw(env: ParticleEnv, row: int) -> NDArray[np.uint8]:
    """One row as uint8 [400, 400, 3]: learners red, prey green (ringed when touched), rocks grey."""
    agents, _, landmarks = (array[row] for array in env.state)
    scenario = env.scenario
    image = Image.new("RGB", (SIZE * _SMOOTH, SIZE * _SMOOTH), _PAPER)
    pen = ImageDraw.Draw(image)
    scale = SIZE * _SMOOTH / (2 * _HALF_WIDTH)

    def box(centre: NDArray[np.float64], radius: float) -> tuple[float, float, float, float]:
        x, y = (centre[0] + _HALF_WIDTH) * scale, (_HALF_WIDTH - centre[1]) * scale
        return x - radius * scale, y - radius * scale, x + radius * scale, y + radius * scale

    pen.rectangle(box(np.zeros(2), 1.0), outline=_EDGE, width=2 * _SMOOTH)
    for centre, radius, solid in zip(
        landmarks, scenario.landmark_sizes, scenario.landmark_collides, strict=True
    ):
        pen.ellipse(box(centre, radius), fill=_ROCK if solid else _OPEN)
    n_learn = len(scenario.agent_names)
    for i, (centre, radius) in enumerate(zip(agents, scenario.sizes, strict=True)):
        pen.ellipse(box(centre, radius), fill=_LEARNER if i < n_learn else _PREY)
    for prey in range(n_learn, len(agents)):
        reach = [scenario.sizes[prey] + size for size in scenario.sizes[:n_learn]]
        if (np.linalg.norm(agents[:n_learn] - agents[prey], axis=1) < reach).any():
            pen.ellipse(box(agents[prey], 2.2 * scenario.sizes[prey]), outline=_TOUCH, width=3 * _SMOOTH)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def frames(name: str, policy: Policy, seed: int = 0, episodes: int = 1) -> list[NDArray[np.uint8]]:
    """Pictures of whole episodes, one after another: the start and every step of each."""
    env, generator = envs.make(name, num_envs=episodes), torch.Generator().manual_seed(seed)
    obs = env.reset(seed)
    pictures = [[draw(env, row)] for row in range(episodes)]
    for _ in range(env.spec.horizon):
        obs = env.step(policy.act(torch.from_numpy(obs), generator).numpy()).obs
        for row in range(episodes):
            pictures[row].append(draw(env, row))
    return [picture for episode in pictures for picture in episode]
