"""Memory that is freed is kept for the next block, or the next update, of the same size."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT, _LARGEST = 256 << 20, 32 << 20
"""bytes: what is kept at most, and of one array at most (glibc takes no more)"""


@cache
def keep_freed_memory() -> None:
    """Have glibc keep what it would give back to the system, which hands it out again page by page, as zeros.

    Where the C library is another, nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _KEPT)
