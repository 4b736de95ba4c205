"""OMIGA's HDF5 files for MAMuJoCo.

Layout (Wang et al., "Offline Multi-Agent Reinforcement Learning with Implicit Global-to-Local Value
Regularization", NeurIPS 2023), one file ``<Scenario>-<configuration>-<type>.hdf5``::

    s [S, N, state]   o [S, N, O]   a [S, N, A]   r [S, N] or [S, 1]   d [S, N] or [S]

``d`` = 1 ends an episode, and OMIGA's loader shifts it: a step consists of a row with d = 0 and the next row,
whose d is the step's end flag. So the row with d = 1 only provides a final observation. We read files in the
same way (``final=drop``), and write one row more per episode than it has steps, so that this loader sees
every step. Our writer stores all agents' observations as ``s``, and adds the attribute ``dom2``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dom2data.convert import described, files, rows
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.rows import Reading, Rows
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset


def write(dataset: Dataset, path: Path, *, force: bool = False) -> Path:
    """Write the file ``path`` and return it."""
    obs, lengths = dataset.array("observations"), dataset.lengths
    steps = np.arange(len(dataset)) + np.repeat(np.arange(len(lengths)), lengths)
    final = rows.last_steps(lengths + 1)

    def with_final(values: np.ndarray) -> np.ndarray:
        wide = np.zeros((len(obs), *values.shape[1:]), np.float32)
        wide[steps] = values
        return wide

    arrays = {
        "s": np.broadcast_to(obs.reshape(len(obs), 1, -1), (*obs.shape[:2], obs.shape[1] * obs.shape[2])),
        "o": obs,
        "a": with_final(dataset.array("actions")),
        "r": with_final(dataset.array("rewards")),
        "d": np.repeat(final[:, None], obs.shape[1], axis=1).astype(np.float32),
    }
    with staged(path, force) as partial:
        files.write_hdf5(partial, arrays, {described.NOTE: described.note(dataset, "ends")})
    return path


def read(
    path: Path, *, env: str | None = None, ends: str = "auto", clip: bool = False, final: str = "drop"
) -> Imported:
    """Read a file. Raises UserError: code 3 when the file is not as described, 2 for a wrong option."""
    with files.hdf5(path) as file:
        obs, actions, rewards, done = (files.hdf5_array(file, name) for name in ("o", "a", "r", "d"))
        note = files.hdf5_note(file, described.NOTE)
    if obs.ndim != 3 or actions.ndim != 3 or not len(obs) == len(actions) == len(rewards) == len(done):
        raise refused(f"expected o [S, N, O] and a [S, N, A], found {obs.shape} and {actions.shape}")
    rewards = np.broadcast_to(rewards.reshape(len(obs), -1), obs.shape[:2]) if rewards.ndim < 3 else rewards
    flags = rows.flags("d", done.reshape(len(obs), -1))
    if (flags != flags[:, :1]).any():
        raise refused("expected agents to be done at the same rows, found others")
    lengths, more = rows.lengths_from(flags[:, 0])
    ended = bool(flags[-1, 0])
    reading = Reading("omiga", {path.name: path}, env, clip, final, note, {"ends": ends})
    if final != "drop":
        terminated, says = rows.terminated_by(ends, lengths, note, ended)
        return rows.imported(Rows(obs, actions, rewards, lengths, terminated), reading, (*more, says))
    terminated, says = rows.terminated_by(ends, lengths - 1, note, ended)
    shifted = _shifted(obs, actions, rewards, lengths, terminated)
    told = f"the rows that end {len(lengths):,} episodes taken as final observations alone (final=drop)"
    return rows.imported(shifted, reading, (*more, says, told))


def _shifted(
    obs: np.ndarray, actions: np.ndarray, rewards: np.ndarray, lengths: Any, terminated: Any
) -> Rows:
    if (lengths < 2).any():
        raise refused(f"episode {np.flatnonzero(lengths < 2)[0]}: expected 2 rows or more, found 1")
    step = ~rows.last_steps(lengths)
    following = np.flatnonzero(step) + 1
    return Rows(obs[step], actions[step], rewards[step], lengths - 1, terminated, obs[following])
