"""Render an episode of a dataset as an animation, from the stored data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dom2data import envs, new_file
from dom2data.dataset import Dataset
from dom2data.envs.render import Picture, draw
from dom2data.errors import FAILED, UserError
from dom2data.look import scenes
from dom2data.look.pictures import gif

MOST = 200
"""about the most frames of a video, unless a stride is given"""
SUFFIXES = (".gif", ".mp4")
_INK = "#55524b"


def frames(dataset: Dataset, episode: int, stride: int | None = None) -> list[Picture]:
    """Draw an episode every ``stride`` steps and at its end, with the step and the return so far.

    Raises UserError: code 2 if the episode does not exist or the environment cannot be drawn, 3 if the stored
    data disagree with the environment.
    """
    if not 0 <= episode < dataset.n_episodes:
        raise UserError(f"expected an episode in 0..{dataset.n_episodes - 1}, found {episode}")
    length = int(dataset.lengths[episode])
    times = shown(length, stride)
    env: Any
    if scenes.particles(dataset) is not None:
        start = int(dataset.offsets[episode]) + episode
        env = scenes.particle_rows(dataset, dataset.array("observations")[start + times])
    elif envs.task(dataset.env) == "halfcheetah":
        env = scenes.cheetahs(dataset, episode, times)
    else:
        raise UserError(
            "expected observations of tag, world, spread, their variants, or halfcheetah, found "
            f"{dataset.env} with {dataset.spec.obs_dim} numbers for an agent: it has no picture here"
        )
    first = int(dataset.offsets[episode])
    earned = dataset.spec.team(dataset.array("rewards")[first : first + length].astype(np.float64))
    so_far = np.concatenate(([0.0], np.cumsum(earned)))
    return [
        captioned(draw(env, row), f"episode {episode}   step {time}   return {so_far[time]:.1f}")
        for row, time in enumerate(times)
    ]


def shown(length: int, stride: int | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the times in 0..length that become frames. Raises UserError for a stride below 1."""
    if stride is not None and stride < 1:
        raise UserError(f"expected a stride of 1 step or more, found {stride}")
    step = stride or -(-(length + 1) // MOST)
    return np.unique(np.append(np.arange(0, length + 1, step), length))


def captioned(picture: Picture, text: str) -> Picture:
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((8, 6), text, fill=_INK, font=ImageFont.load_default(13))
    return np.asarray(image)


def write(pictures: Sequence[Picture], path: Path, fps: int, force: bool = False) -> None:
    """Write a GIF or, if imageio with ffmpeg is installed, an MP4.

    Raises UserError: code 2 for another suffix, an existing file or a missing folder, 1 without ffmpeg.
    """
    check(path, force)
    with new_file.replacing(path) as partial:
        if path.suffix.lower() == ".gif":
            partial.write_bytes(gif(pictures, round(1000 / fps)))
        else:
            _mp4(pictures, partial, fps)


def check(path: Path, force: bool) -> None:
    """Raises UserError (code 2) unless a video may be written there."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"expected a file ending in {' or '.join(SUFFIXES)}, found {path}")
    new_file.require(path, force)


def _mp4(pictures: Sequence[Picture], path: Path, fps: int) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "expected imageio with ffmpeg to write an MP4, found none; "
            "pip install 'imageio[ffmpeg]', or write a .gif",
            FAILED,
        ) from error
    height, width, _ = pictures[0].shape
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, quality=7, output_params=["-f", "mp4"]
    )
    writer.send(None)
    for picture in pictures:
        writer.send(np.ascontiguousarray(picture))
    writer.close()
