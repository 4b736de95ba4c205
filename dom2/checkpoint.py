"""Checkpoints that survive a process killed while it writes them.

``checkpoint/<updates>/`` holds ``weights.safetensors`` (all a policy needs) and ``state.pt`` (state of the
optimisers and generators, which the next update needs). ``checkpoint/latest`` names the newest complete one.
It is replaced atomically after the folder is complete, so it always names a checkpoint that can be read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dom2.run import write
from dom2_policies.saving import save_state, save_weights
from dom2data import memory
from dom2data.errors import CHECK_FAILED, UserError, naming
from dom2data.new_file import sync


def save(run: Path, updates: int, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint after ``updates`` updates and remove the previous one."""
    root = run / "checkpoint"
    staging, folder = root / ".partial", root / f"{updates:09d}"
    if latest(run) == folder:
        return
    for old in (staging, folder):
        shutil.rmtree(old, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        save_weights(weights, staging / "weights.safetensors")
        save_state(state, staging / "state.pt")
        for path in (staging / "weights.safetensors", staging / "state.pt"):
            with naming(path):
                sync(path)
        staging.rename(folder)
        write(root / "latest", folder.name)
    except OSError:  # make room on a full disk
        for half in (staging, folder):
            shutil.rmtree(half, ignore_errors=True)
        raise
    for old in root.iterdir():
        if old.is_dir() and old != folder:
            shutil.rmtree(old)


def latest(run: Path) -> Path | None:
    """The folder of the newest complete checkpoint, or None before the first.

    Raises UserError (code 3) if ``latest`` does not hold a checkpoint's name.
    """
    pointer = run / "checkpoint" / "latest"
    if not pointer.exists():
        return None
    name = pointer.read_text()
    if not name.isdecimal():
        raise UserError(
            f"{pointer}: expected a checkpoint's name, found {name!r}; fit the run again", CHECK_FAILED
        )
    return run / "checkpoint" / name


def updates(run: Path) -> int:
    """Number of updates at the newest checkpoint; 0 before the first. Raises UserError like ``latest``."""
    folder = latest(run)
    return 0 if folder is None else int(folder.name)


def load_weights(run: Path, device: torch.device) -> tuple[int, dict[str, Tensor]]:
    """Load the newest weights; return the number of updates at which they were saved, and the weights.

    Raises UserError if the run has none, or none that can be read (code 3).
    """
    while True:
        folder = latest(run)
        if folder is None:
            raise UserError(
                f"expected a checkpoint in {run}, found none; continue with dom2 fit --resume {run}"
            )
        path = folder / "weights.safetensors"
        try:
            return int(folder.name), load_file(path, device=str(device))
        except FileNotFoundError as error:
            if latest(run) == folder:  # else the process that fits the run has replaced it
                raise unreadable(path, error) from error
        except SafetensorError as error:
            raise unreadable(path, error) from error


def load_state(run: Path) -> dict[str, Any]:
    """Load the newest optimiser and generator state, tensors to the CPU; only plain values are unpickled.

    Raises UserError like ``load_weights``.
    """
    folder = latest(run)
    if folder is None:
        raise UserError(f"expected a checkpoint in {run}, found none; start the run anew with --force")
    path = folder / "state.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no single error for truncated or foreign files
        raise unreadable(path, error) from error


@contextmanager
def belonging(run: Path) -> Iterator[None]:
    """Raise UserError (code 3) if what is loaded inside belongs to other networks or another device."""
    try:
        yield
    except (RuntimeError, KeyError, AssertionError, ValueError) as error:
        if memory.lacking(error):
            raise
        found = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{run / 'checkpoint'}: expected the state of the run's algorithm on its device, found: "
            f"{found[:200]}; use the code that it was fitted with, or fit the run again",
            CHECK_FAILED,
        ) from error


def unreadable(path: Path, error: Exception) -> UserError:
    found = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: expected a whole checkpoint, found: {found}; fit the run again", CHECK_FAILED)
