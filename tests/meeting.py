"""The environment of docs/your-environment.md as a file, whole or with a line of it changed."""

from __future__ import annotations

from pathlib import Path

import pages

HELD = (
    "def __init__(self):",
    "held = []\n\n    def close(self):\n        self.held.remove(self)\n\n"
    "    def __init__(self):\n        self.held.append(self)",
)
"""A change: the class has the list ``held`` of its instances that are not closed."""

SILENT_END = ("self.observed(),\n", "self.observed() if self.agents else {},\n")
"""A change: the last step tells no observations."""


def code() -> str:
    """The page's."""
    return pages.python("your-environment.md")


def written(folder: Path, *changes: tuple[str, str]) -> str:
    """The environment's name, ``<folder>/meet.py:make``, once its file is written there."""
    text = code()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "meet.py"
    file.write_text(text)
    return f"{file}:make"
