"""Plots of a dataset."""

from __future__ import annotations

from pathlib import Path

from dom2data import new_file, scores
from dom2data.dataset import Dataset
from dom2data.errors import UserError


def histogram(dataset: Dataset, file: Path, *, force: bool = False) -> None:
    """Write a histogram of team returns, with the published references, as PNG, SVG or PDF.

    Raises UserError for another format, when the folder does not exist, or when the file exists (without
    ``force``).
    """
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"expected a file ending in .png, .svg or .pdf, found {file}")
    new_file.require(file, force)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.hist(dataset.returns, bins=60, color="#4878a8")
    axes.axvline(float(dataset.returns.mean()), color="black", linewidth=1, label="mean")
    for name, value in scores.PUBLISHED.get(dataset.env, {}).items():
        axes.axvline(value, color="#b04a3a", linestyle=":", linewidth=1)
        axes.annotate(f"published {name}", (value, 0.98), xycoords=("data", "axes fraction"), rotation=90,
                      ha="right", va="top", fontsize=7, color="#b04a3a")  # fmt: skip
    axes.set(xlabel="team return per episode", ylabel="episodes", title=dataset.id)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
