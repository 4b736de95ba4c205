"""JSON documents that somebody has edited: any value in any place."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

ANYTHING = st.sampled_from(
    [..., None, True, -1, 0, 10**30, 0.5, 1e308, "", "../..", "x", [], {}, [None], {"a": {}}, [[1]]]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value in a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inside for place in places(child, (*path, key)))][
        0 if path else 1 :
    ]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The document with another value at ``path``; ``...`` removes it."""
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return copy
