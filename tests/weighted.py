"""The algorithm of docs/your-algorithm.md as a file."""

from __future__ import annotations

from pathlib import Path

import pages


def written(folder: Path) -> str:
    """The algorithm's name, ``<folder>/weighted.py:WeightedCloning``, once its file is written there."""
    file = folder / "weighted.py"
    file.write_text(pages.python("your-algorithm.md"))
    return f"{file}:WeightedCloning"
