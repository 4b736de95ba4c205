"""Other formats, one module each: ``read(path, **options)`` and ``write(dataset, path, **options)``.

Either may be missing if it makes no sense. A module's docstring describes the layout and its source.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from dom2data.errors import UserError

FORMATS = {
    "minari": "dom2data.convert.minari",
    "omar": "dom2data.convert.omar",
    "madiff": "dom2data.convert.madiff",
    "omiga": "dom2data.convert.omiga",
    "vault": "dom2data.convert.vault",
    "d4rl": "dom2data.convert.d4rl",
    "torchrl": "dom2data.convert.torchrl",
    "safetensors": "dom2data.convert.safetensors",
    "npz": "dom2data.convert.npz",
}
"""Name -> module, imported on first use."""


def module(name: str) -> ModuleType:
    """Return the module of a format. Raises UserError for an unknown name or a missing optional package."""
    if name not in FORMATS:
        raise UserError(f"expected a format ({', '.join(FORMATS)}), found {name!r}")
    try:
        return importlib.import_module(FORMATS[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "dom2data":
            raise
        raise UserError(
            f"expected the package {error.name} for the format {name}, found none; pip install {error.name}"
        ) from error
