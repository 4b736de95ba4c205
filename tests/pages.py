"""What is on a page: the code of a documented one, the elements of a report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def python(name: str) -> str:
    """The first block of Python of a page of the documentation."""
    found = re.search(r"^```python\n(.*?)^```", (DOCS / name).read_text(), flags=re.M | re.S)
    assert found is not None
    return found[1]


class Page(HTMLParser):
    """Collects images, what is fetched from elsewhere, and unclosed elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.images.append(found["src"] or "")
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
