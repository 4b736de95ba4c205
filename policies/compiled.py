"""Functions compiled by numba and, if possible, cached for the next start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """``numba.njit(cache=True)``, or without the cache if none can be written.

    That happens if neither the package's folder nor the user's home is writable, as for another user in a
    container; each process then compiles everything again. ``NUMBA_CACHE_DIR`` names another folder.
    """

    def decorate(function: F) -> F:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba: no locator available
            return njit(**options)(function)

    return decorate
