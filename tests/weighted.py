"""The algorithm of docs/your-algorithm.md as a file."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/your-algorithm.md"


def written(folder: Path) -> str:
    """The algorithm's name, ``<folder>/weighted.py:WeightedCloning``, once its file is written there."""
    found = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    assert found is not None
    file = folder / "weighted.py"
    file.write_text(found[1])
    return f"{file}:WeightedCloning"
