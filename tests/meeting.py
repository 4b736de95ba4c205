"""The environment of docs/your-environment.md as a file, whole or with a line of it changed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/your-environment.md"

HELD = (
    "def __init__(self):",
    "held = []\n\n    def close(self):\n        self.held.remove(self)\n\n"
    "    def __init__(self):\n        self.held.append(self)",
)
"""A change: the class has the list ``held`` of its instances that are not closed."""


def code() -> str:
    """The page's first block of Python."""
    found = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    assert found is not None
    return found[1]


def written(folder: Path, *changes: tuple[str, str]) -> str:
    """The environment's name, ``<folder>/meet.py:make``, once its file is written there."""
    text = code()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "meet.py"
    file.write_text(text)
    return f"{file}:make"
