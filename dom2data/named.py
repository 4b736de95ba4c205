"""Which code of their own users have named here, so that no dataset's or run's word alone runs any.

A dataset names the environment that it came from, and a run its algorithm: ``module:make`` or
``file.py:Class``, which an import runs. Where a user gives such a name it is remembered, with the folder that
it is meant from; where it comes out of a dataset or a run, only a remembered one is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from dom2data.errors import CHECK_FAILED, UserError

VARIABLE = "DOM2_NAMED"
"""names, separated by commas, that are taken as well: for workers on machines that no user works at"""

_here: set[str] = set()


def file() -> Path:
    """Where the names are kept, one on a line, each with its folder."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "dom2" / "named.txt"


def remember(name: str) -> None:
    """A user has given this name. Where nothing can be written, this process alone knows."""
    if ":" not in name or _line(name) in _known():
        return
    _here.add(_line(name))
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with file().open("a") as kept:
            kept.write(_line(name) + "\n")
    except OSError:
        return


def require(name: str, hint: str) -> None:
    """Raises UserError (code 3), with what to do, for code of a user's own that was not named here."""
    if ":" in name and name not in os.environ.get(VARIABLE, "").split(",") and _line(name) not in _known():
        raise UserError(
            f"expected code that you have named in this folder, found {name}, which only the data or the run "
            f"name; nothing is run on their word. Read it, then {hint}, or {VARIABLE}={name}",
            CHECK_FAILED,
        )


def environment(name: str) -> None:
    """``require`` for an environment."""
    require(name, f"`dom2data check-env {name}` allows it")


def _line(name: str) -> str:
    return f"{name}\t{os.getcwd()}"


def _known() -> set[str]:
    try:
        return _here | set(file().read_text().splitlines())
    except OSError:
        return _here
