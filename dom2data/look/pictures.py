"""Figures and images as data URIs, so that a page needs no other file."""

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
"""Templates, and what the pages of both commands share: ``page.css``."""
RED, BLUE = "#c8503c", "#4878a8"  # the agents, as in their pictures; the data


def canvas(width: float = 4.8, height: float = 2.8) -> tuple[Figure, Axes]:
    """A small figure for one picture, in inches, without pyplot's global state."""
    figure = blank(width, height)
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """A figure without axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def plain(axes: Axes) -> None:
    """Less ink."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def svg(figure: Figure) -> str:
    """A figure as a data URI; the same bytes whenever it is drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return uri("image/svg+xml", file.getvalue())


def gif(pictures: Sequence[NDArray[np.uint8]], milliseconds: int) -> bytes:
    """An endless animation of pictures [H, W, 3], so long each."""
    few = [Image.fromarray(picture).quantize(64) for picture in pictures]
    file = io.BytesIO()
    few[0].save(file, "GIF", save_all=True, append_images=few[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def png(image: Image.Image) -> str:
    """An image as a data URI."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return uri("image/png", file.getvalue())


def uri(kind: str, content: bytes) -> str:
    """A data URI of this content, of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
