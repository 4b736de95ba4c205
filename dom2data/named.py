"""Remember which of their own code users have named, so that no dataset or run can execute code by itself.

A dataset names its environment, and a run its algorithm, as ``module:make`` or ``file.py:Class``; importing
that executes code. A name that the user gives is remembered together with the current folder. A name that
comes from a dataset or a run is imported only if it has been remembered.
"""

from __future__ import annotations

import os
from pathlib import Path

from dom2data.errors import CHECK_FAILED, UserError

VARIABLE = "DOM2_NAMED"
"""comma-separated names that are also allowed: for workers on machines where the user has named nothing"""

_here: set[str] = set()


def file() -> Path:
    """Return the file that keeps the names, one per line, each with its folder."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "dom2" / "named.txt"


def remember(name: str) -> None:
    """Remember a name that the user has given; only in this process if the file cannot be written."""
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
    """Raises UserError (code 3), which says what to do, for user code that has not been named here."""
    if ":" in name and name not in os.environ.get(VARIABLE, "").split(",") and _line(name) not in _known():
        raise UserError(
            f"expected code that you have named in this folder, found {name}, which only the data or the run "
            f"name; nothing is run on their word. Read it, then {hint}, or {VARIABLE}={name}",
            CHECK_FAILED,
        )


def environment(name: str) -> None:
    """Apply ``require`` to the name of an environment."""
    require(name, f"`dom2data check-env {name}` allows it")


def _line(name: str) -> str:
    return f"{name}\t{os.getcwd()}"


def _known() -> set[str]:
    try:
        return _here | set(file().read_text().splitlines())
    except OSError:
        return _here
