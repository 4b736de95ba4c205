"""The check before a file is made: may it be written there?"""

from __future__ import annotations

from pathlib import Path

from dom2data.errors import UserError


def require(path: Path, force: bool) -> None:
    """Raises UserError (code 2) when the file is there (and not ``force``) or its folder is not."""
    if path.exists() and not force:
        raise UserError(f"expected a new file, found {path}; --force replaces it")
    if not path.absolute().parent.is_dir():
        raise UserError(f"expected a folder to write into, found none at {path.absolute().parent}")
