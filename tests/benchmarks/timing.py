"""Both sides of a ratio, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable


def best(*calls: Callable[[], object], times: int = 30) -> list[float]:
    """Seconds of the quickest of several runs of each, in turn, because other programs may be running."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(times):
        for call, measured in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            kept = call()
            measured.append(time.perf_counter() - start)
            del kept
    return [min(measured) for measured in seconds]
