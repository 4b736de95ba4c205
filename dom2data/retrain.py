"""Behaviour policies trained here instead of shipped, in a folder that is either complete or absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dom2data.errors import UserError
from dom2data.generate import Progress


def train(
    env: str,
    seed: int,
    out: Path,
    progress: Progress | None = None,
    *,
    force: bool = False,
    keep_prey: bool = False,
) -> dict[str, Any]:
    """Behaviour policies from nothing, into a folder that appears when all of them are there.

    Returns its entry of ``zoo.json``. Raises UserError when ``out`` exists (without ``force``).
    """
    from dom2data import behaviour

    if out.exists() and not force:
        raise UserError(f"expected a new folder, found {out}; --force replaces it, --out names another")
    partial_folder = out.with_name(out.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    entry = behaviour.train(env, seed, partial_folder, progress, keep_prey=keep_prey)
    shutil.rmtree(out, ignore_errors=True)
    partial_folder.rename(out)
    return entry


def retrained(env: str, seed: int, base: Path, progress: Progress | None = None) -> Path:
    """The folder of checkpoints trained here with ``seed``; trained now if they are not there.

    The prey stays the shipped one: it is part of the environment.
    """
    folder = base / ".dom2data" / "zoo" / f"{env}-s{seed}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(env, seed, folder, progress, keep_prey=True)
    return folder
