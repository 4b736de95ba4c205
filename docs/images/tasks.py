"""Draws docs/images/tasks.png: the shipped experts at the four tasks, at an episode's start, middle and end.

python docs/images/tasks.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from dom2_policies import zoo
from dom2_policies.policy import Policy, acting, load_actor
from dom2data import envs
from dom2data.envs.render import SIZE, draw

SIDE, MARGIN, TITLE = SIZE // 2, 8, 22


def contact_sheet(policies: Mapping[str, Policy], path: Path, seed: int = 0) -> None:
    """A PNG with one row per environment of ``policies``."""
    height = TITLE + SIDE + MARGIN
    sheet = Image.new("RGB", (MARGIN + 3 * (SIDE + MARGIN), height * len(policies)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (name, policy) in enumerate(policies.items()):
        env, act = envs.make(name), acting(policy, torch.Generator().manual_seed(seed))
        obs, times = env.reset(seed), (0, env.spec.horizon // 2, env.spec.horizon)
        for t in range(env.spec.horizon + 1):
            if t > 0:
                obs = env.step(act(obs)).obs
            if t in times:
                x, y = MARGIN + times.index(t) * (SIDE + MARGIN), i * height
                small = Image.fromarray(draw(env, 0)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                sheet.paste(small, (x, y + TITLE))
                pen.text((x, y + 4), f"{name}, step {t}", fill="#55524b", font=font)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    experts = {name: load_actor(zoo.path(name, "expert")) for name in envs.NAMES}
    contact_sheet(experts, Path(__file__).with_suffix(".png"))
