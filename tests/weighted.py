"""The algorithm of docs/your-algorithm.md as a file."""

from __future__ import annotations

from pathlib import Path

import pages


def written(folder: Path, *changes: tuple[str, str]) -> str:
    """The algorithm's name, ``<folder>/weighted.py:WeightedCloning``, once its file is written there, whole
    or with lines of it changed."""
    text = pages.python("your-algorithm.md")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "weighted.py"
    file.write_text(text)
    return f"{file}:WeightedCloning"
