"""Functions compiled by numba, kept for the next start where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """``numba.njit(cache=True)``, without the cache where none can be written.

    That is so where neither the package's folder nor the user's home is writable, as for another user in
    a container; everything then compiles once more in each process. ``NUMBA_CACHE_DIR`` names another place.
    """

    def decorate(function: F) -> F:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba: no locator available
            return njit(**options)(function)

    return decorate
