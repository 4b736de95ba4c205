"""Figures and images as data URIs, so that a page needs no other files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

PAGES = Path(__file__).parent
"""Folder of the templates, and of ``page.css``, which the pages of both commands share."""
RED, BLUE = "#c8503c", "#4878a8"  # for the agents, as in renderings, and for the data


def canvas(width: float = 4.8, height: float = 2.8) -> tuple[Figure, Axes]:
    """Return a small figure with one plot; sizes in inches; without pyplot's global state."""
    figure = blank(width, height)
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """Return a figure without axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def plain(axes: Axes) -> None:
    """Simplify the style of axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def svg(figure: Figure) -> str:
    """Return a figure as a data URI; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return uri("image/svg+xml", file.getvalue())


def gif(pictures: Sequence[NDArray[np.uint8]], milliseconds: int) -> bytes:
    """Return a looping GIF of pictures [H, W, 3], each shown for this many milliseconds."""
    few = [Image.fromarray(picture).quantize(64) for picture in pictures]
    file = io.BytesIO()
    few[0].save(file, "GIF", save_all=True, append_images=few[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def png(image: Image.Image) -> str:
    """Return an image as a data URI."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return uri("image/png", file.getvalue())


def uri(kind: str, content: bytes) -> str:
    """Return a data URI with this content and the MIME type ``kind``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
