"""Lets Minari open our Zarr datasets once both Minari and ``dom2data`` are imported, in either order.

Minari has no interface for adding a storage, so an entry is added to its private table. Importing Minari
takes half a second, so it is not imported here: a finder on ``sys.meta_path`` waits for that one module. If
Minari differs from what is expected, a warning is given and nothing is changed; the HDF5 copy still works.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_TABLE = "minari.dataset._storages"
_FORMAT = "zarr"


def install() -> None:
    """Register the storage now, or when Minari is imported."""
    module = sys.modules.get(_TABLE)
    if module is not None:
        register(module)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def register(module: ModuleType) -> None:
    """Add the storage to Minari's table; if the table is not as expected, only warn."""
    table = getattr(module, "_registry", None)
    if isinstance(table, dict) and callable(table.get("hdf5")) and table.get(_FORMAT, _storage) is _storage:
        table[_FORMAT] = _storage
        return
    found = "one of its own for zarr" if isinstance(table, dict) and _FORMAT in table else "none"
    warnings.warn(
        f"expected Minari's table of storages, found {found}: it cannot open Zarr datasets of "
        "dom2data; `dom2data convert ID --to minari` writes HDF5 that it opens",
        stacklevel=2,
    )


def _storage() -> type[Any]:
    from dom2data.convert.minari_backend import ZarrStorage

    return ZarrStorage


class _Waiting(MetaPathFinder):
    """Finds that one module as Python itself would, and registers the storage once it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = spec and spec.loader
        if not hasattr(loader, "exec_module"):
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            register(module)

        loader.exec_module = exec_module
        sys.meta_path.remove(self)
        return spec
