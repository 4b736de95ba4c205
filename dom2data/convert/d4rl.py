"""D4RL-style HDF5, which much single-agent code can read.

Layout (Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", 2020)::

    observations, next_observations [S, O]   actions [S, A]   rewards, terminals, timeouts [S]

``timeouts`` are missing from some files, ``next_observations`` from many. For several agents our writer
concatenates their observations, agent after agent, and likewise their actions; rewards are the team's, and
``infos/agent_rewards`` [S, N] are each agent's. It adds the attribute ``dom2``. Arrays [S, N, O] with an
agent axis are read, too; ``agents=N`` splits concatenated arrays of files without our attribute.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dom2data.convert import described, files, rows
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.rows import Reading, Rows
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset


def write(dataset: Dataset, path: Path, *, force: bool = False) -> Path:
    """Write the file ``path`` and return it."""
    found, following, last, terminal = rows.of(dataset)
    steps = len(dataset)
    arrays = {
        "observations": found.observations.reshape(steps, -1),
        "actions": found.actions.reshape(steps, -1),
        "rewards": dataset.spec.team(found.rewards),
        "terminals": terminal,
        "timeouts": last & ~terminal,
        "next_observations": following.reshape(steps, -1),
        "infos/agent_rewards": found.rewards,
    }
    with staged(path, force) as partial:
        files.write_hdf5(partial, arrays, {described.NOTE: described.note(dataset, "terminations")})
    return path


def read(
    path: Path,
    *,
    env: str | None = None,
    agents: int | None = None,
    horizon: int | None = None,
    clip: bool = False,
    final: str = "drop",
) -> Imported:
    """Read a file; ``horizon`` cuts files without timeouts. Raises UserError (code 3) for another layout."""
    with files.hdf5(path) as file:
        names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
        there = set(files.hdf5_names(file))
        found = {name: files.hdf5_array(file, name) for name in names if name in there}
        if "infos" in there and "agent_rewards" in files.hdf5_group(file, "infos"):
            found["rewards"] = files.hdf5_array(files.hdf5_group(file, "infos"), "agent_rewards")
        note = files.hdf5_note(file, described.NOTE)
    if missing := [name for name in names[:4] if name not in found]:
        raise refused(f"{path.name}: expected {', '.join(names[:4])}, found no {missing[0]}")
    steps = len(found["actions"]) if found["actions"].ndim else 0
    alike = all(array.ndim > 0 and len(array) == steps for array in found.values())
    one_each = all(found[name].size == steps for name in ("terminals", "timeouts") if name in found)
    if steps == 0 or not alike or not one_each:
        raise refused(f"{path.name}: expected rows of the same number, found others")
    n = agents or (described.from_note(note).spec.n_agents if note and env is None else _agents_of(env))
    obs, actions = (_split(name, found[name], n) for name in ("observations", "actions"))
    following = (
        _split("next_observations", found["next_observations"], n) if "next_observations" in found else None
    )
    rewards = found["rewards"].reshape(steps, -1)
    if rewards.shape[1] == 1:  # the team's reward, used for every agent
        rewards = np.broadcast_to(rewards, (steps, actions.shape[1]))
    terminal = rows.flags("terminals", found["terminals"].reshape(-1))
    ends, notes = _ends(terminal, found.get("timeouts"), obs, following, horizon)
    lengths, more = rows.lengths_from(ends)
    made = Rows(obs, actions, rewards, lengths, terminal[np.cumsum(lengths) - 1], following)
    options = {"agents": agents, "horizon": horizon}
    reading = Reading("d4rl", {path.name: path}, env, clip, final, note, options)
    return rows.imported(made, reading, (*notes, *more))


def _agents_of(env: str | None) -> int:
    return described.from_env(env).spec.n_agents if env else 1


def _split(name: str, array: np.ndarray, n: int) -> np.ndarray:
    """Reshape [S, N * X] to [S, N, X]; an array with an agent axis is returned unchanged."""
    if array.ndim == 3:
        return array
    if array.ndim != 2 or n < 1 or array.shape[1] % n:
        raise refused(f"{name}: expected {n} agents side by side, found {array.shape}; see --option agents=N")
    return array.reshape(len(array), n, -1)


def _ends(
    terminal: np.ndarray,
    timeouts: np.ndarray | None,
    obs: np.ndarray,
    following: np.ndarray | None,
    horizon: int | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return episode ends [S] (without timeouts: at the horizon, or where observations jump), and notes."""
    if timeouts is not None:
        return terminal | rows.flags("timeouts", timeouts.reshape(-1)), ()
    if horizon:
        row = np.arange(len(terminal))
        first = np.maximum.accumulate(np.where(np.roll(terminal, 1), row, 0))
        ends = terminal | ((row - first) % horizon == horizon - 1)
        return ends, (f"no timeouts in the file: episodes cut after {horizon} steps",)
    if following is not None and following.shape == obs.shape:
        continues = (following[:-1] == obs[1:]).all(axis=(1, 2))
        ends = terminal | np.append(~continues, True)
        return ends, ("no timeouts in the file: episodes cut where observations do not continue",)
    raise refused("expected timeouts or next_observations, found neither; --option horizon=T cuts episodes")
