"""Keep freed memory in the process, for the next block or the next update of the same size."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT, _LARGEST = 256 << 20, 32 << 20
"""limits in bytes: in total, and for a single array (the largest that glibc accepts)"""


@cache
def keep_freed_memory() -> None:
    """Make glibc keep memory that it would return to the system, which zeroes every page it hands out again.

    Has no effect with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _KEPT)
