"""Convert consecutive steps, as in most foreign formats, to episodes with a final observation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dom2data.convert import described
from dom2data.convert.action_order import check_action_order
from dom2data.convert.described import Described
from dom2data.convert.ingest import Imported, as_float32, clipped, refused
from dom2data.dataset import Dataset
from dom2data.errors import UserError

Final = Literal["drop", "repeat"]
"""For episodes without a final observation: drop the last step, or repeat the last observation."""


@dataclass(frozen=True)
class Rows:
    """The contents of a file: observations [S, N, O], actions [S, N, A], rewards [S, N], lengths [Ep],
    terminated [Ep], and next_observations [S, N, O] if the file has them."""

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    next_observations: NDArray[Any] | None = None
    obs_dims: tuple[int, ...] | None = None
    """widths of the agents' own observations, if they are padded with zeros"""


@dataclass(frozen=True)
class Reading:
    """How a file is read, for any format."""

    format: str
    files: Mapping[str, Path]
    """by the name under which their SHA-256 is recorded"""
    env: str | None
    """the environment that the user says the data come from"""
    clip: bool = False
    """clip actions that are out of bounds instead of refusing them"""
    final: str = "drop"
    note: str | bytes | None = None
    """the note of our own writer"""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """the format's own options, to be recorded"""


def of(dataset: Dataset) -> tuple[Rows, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a dataset's rows for writing, their next observations, and for each step [S] whether it is the
    last of its episode and whether it terminated it."""
    obs, lengths, last = dataset.array("observations"), dataset.lengths, last_steps(dataset.lengths)
    steps = np.arange(len(dataset)) + np.repeat(np.arange(len(lengths)), lengths)
    actions, rewards, terminated = (dataset.array(name) for name in ("actions", "rewards", "terminated"))
    terminal = last.copy()
    terminal[last] = terminated
    return Rows(obs[steps], actions, rewards, lengths, terminated), obs[steps + 1], last, terminal


def last_steps(lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each step [S] is the last of its episode."""
    last = np.zeros(int(lengths.sum()), bool)
    last[np.cumsum(lengths) - 1] = True
    return last


def flags(what: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Convert numbers to flags: true if not zero. Raises UserError (code 3) for NaN, which would be true."""
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise refused(f"{what}: expected flags of 0 and 1, found nan at {int(np.isnan(values).argmax())}")
    return np.asarray(values != 0)


def lengths_from(ends: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the episodes' lengths given their ``ends`` [S], and notes; rows after the last are one more."""
    last = np.flatnonzero(ends)
    note: tuple[str, ...] = ()
    if len(last) == 0 or last[-1] != len(ends) - 1:
        tail = len(ends) - (last[-1] + 1 if len(last) else 0)
        note = (f"the {tail:,} rows after the last end counted as an episode that was cut short",)
        last = np.append(last, len(ends) - 1)
    return np.diff(last, prepend=-1).astype(np.int64), note


def terminated_by(
    how: str, lengths: NDArray[np.int64], note: str | bytes | None, ended: bool = True
) -> tuple[NDArray[np.bool_], str]:
    """Return which episodes terminated, for formats with a single end flag, and a note that says so.

    ``how``: all "truncated", all "terminated", or "auto": as in our own ``note``, else those shorter than the
    longest. Unless the note decides, the last episode did not terminate if the file stops before its end.
    """
    if how not in ("auto", "terminated", "truncated"):
        raise UserError(f"expected ends to be auto, terminated or truncated, found {how!r}")
    if how == "auto" and (known := described.ends(note, len(lengths))):
        count = f"of {len(lengths):,} ends {int(known[0].sum()):,}"
        return known[0], f"{count} are terminations: the file's note"
    found = (lengths < lengths.max()) if how == "auto" else np.full(len(lengths), how == "terminated")
    found[-1] &= ended
    says = f"of {len(lengths):,} ends {int(found.sum()):,} taken as terminations, the others as time limits"
    return found, f"{says} (ends={how})"


def imported(rows: Rows, reading: Reading, notes: tuple[str, ...] = ()) -> Imported:
    """Check the rows and convert them to the store's shapes.

    Raises UserError: code 3 when the rows do not fit together, 2 for an unknown environment or option.
    """
    if reading.final not in get_args(Final):
        raise UserError(f"expected final to be one of {', '.join(get_args(Final))}, found {reading.final!r}")
    _check_shapes(rows)
    rows, more = _strip_padding(rows)
    rows, rounded = _as_float32(rows)
    horizon = int(rows.lengths.max())
    arrays, closed = (
        _with_next(rows) if rows.next_observations is not None else _without_next(rows, reading.final)
    )
    known = described.ends(reading.note, len(rows.lengths))
    if known is not None and (known[0] == rows.terminated).all():
        arrays["truncated"] = known[1]
    what = _described(rows, reading, horizon)
    if reading.clip:
        arrays["actions"], says = clipped(what.spec, arrays["actions"])
        closed += (says,)
    ordered = check_action_order(what.env, arrays)
    options = {"env": reading.env, "clip": reading.clip, "final": reading.final, **reading.options}
    changed = (*notes, *more, *rounded, *closed, *ordered)
    return what.imported(arrays, changed, reading.format, reading.files, options)


def _check_shapes(rows: Rows) -> None:
    obs, actions, rewards = rows.observations.shape, rows.actions.shape, rows.rewards.shape
    if (
        len(obs) != 3
        or len(actions) != 3
        or obs[:2] != actions[:2]
        or rewards != obs[:2]
        or 0 in obs + actions
    ):
        raise refused(
            "expected observations [S, N, O], actions [S, N, A] and rewards [S, N] of the same S and N, "
            f"found {obs}, {actions} and {rewards}"
        )
    if rows.next_observations is not None and rows.next_observations.shape != obs:
        raise refused(f"expected next observations {obs}, found {rows.next_observations.shape}")
    if len(rows.lengths) != len(rows.terminated) or (rows.lengths < 1).any() or rows.lengths.sum() != obs[0]:
        raise refused(f"expected episodes of {obs[0]} steps in all, found {int(rows.lengths.sum())}")


def _strip_padding(rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """Replace trailing columns of -inf, with which some files pad short observations, by zeros."""
    obs = rows.observations
    if obs.dtype.kind != "f" or not np.isneginf(obs[0]).any():
        return rows, ()
    padding: NDArray[np.bool_] = np.asarray(np.isneginf(obs).all(axis=0))  # [N, O]
    widths = tuple(int(np.flatnonzero(~own).max(initial=-1)) + 1 for own in padding)
    if 0 in widths:
        raise refused(f"expected observations of agent {widths.index(0)}, found -inf throughout")
    keep = np.arange(obs.shape[2]) < np.array(widths)[:, None]

    def stripped(values: NDArray[Any]) -> NDArray[Any]:
        return np.where(keep, values, 0)[..., : max(widths)]

    found = rows.next_observations
    changed = dataclasses.replace(
        rows,
        observations=stripped(obs),
        next_observations=None if found is None else stripped(found),
        obs_dims=widths,
    )
    return changed, (f"-inf padding replaced by zeros; the agents' own observations are {widths} wide",)


def _as_float32(rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    notes = []
    changed: dict[str, Any] = {}
    for name in ("observations", "actions", "rewards", "next_observations"):
        values = getattr(rows, name)
        if values is None:
            continue
        changed[name], note = as_float32(name.replace("_", " "), values)
        notes.append(note)
    return dataclasses.replace(rows, **changed), tuple(filter(None, notes))


def _with_next(rows: Rows) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Check that next observations are those of the next row except at episode ends; assemble the arrays."""
    obs, following = rows.observations, rows.next_observations
    assert following is not None
    last = np.cumsum(rows.lengths) - 1
    same = np.ones(len(obs), bool)
    same[:-1] = (following[:-1] == obs[1:]).all(axis=(1, 2))
    inside = np.ones(len(obs), bool)
    inside[last] = False
    broken = np.flatnonzero(inside & ~same)
    if len(broken) and not np.isfinite(obs).all():
        row = np.argwhere(~np.isfinite(obs))[0][0]
        raise refused(f"observations: expected finite values, found others, first in row {row}")
    if len(broken):
        raise refused(
            f"row {broken[0]}: expected its next observation to be the observation of row {broken[0] + 1} "
            f"(of the same episode), found others ({len(broken):,} times); episodes may end elsewhere"
        )
    goes_on = same[last[:-1]]
    begins = obs[last[:-1][goes_on] + 1]
    # If true episodes were cut into two or more parts each, observations continue at more than half of the
    # ends. With few distinct observations, some continue by chance; if all are equal, nothing can be told.
    by_chance = len(np.unique(begins, axis=0)) <= len(begins) / 2 and not goes_on.all()
    if 2 * len(begins) > len(goes_on) and not by_chance and (obs != obs[0]).any():
        raise refused(
            f"expected new observations where episodes begin, found {len(begins):,} of {len(goes_on):,} to "
            f"continue the one before; episodes may be longer than {rows.lengths.max()} steps"
        )
    arrays = _assemble(rows, obs, following[last])
    return arrays, (f"next observations continue within all {len(last):,} episodes",)


def _without_next(rows: Rows, final: str) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Drop the last step of an episode, which has no next observation, or repeat the last observation.

    The step is always kept if the episode terminated, because learners never bootstrap after termination.
    """
    stays = rows.terminated | (final == "repeat")
    lengths = rows.lengths - ~stays
    if (lengths < 1).any():
        raise refused(
            f"episode {np.flatnonzero(lengths < 1)[0]}: expected 2 steps or more (the last has no next "
            "observation here), found 1; --option final=repeat keeps it"
        )
    last = np.cumsum(rows.lengths) - 1
    keep = np.ones(len(rows.actions), bool)
    keep[last[~stays]] = False
    cut = Rows(rows.observations[keep], rows.actions[keep], rows.rewards[keep], lengths, rows.terminated)
    arrays = _assemble(cut, cut.observations, rows.observations[last])
    notes = []
    if dropped := int((~stays).sum()):
        notes.append(
            f"the last step of {dropped:,} episodes dropped: its next observation is not in the file"
        )
    if repeated := int(stays.sum()):
        notes.append(f"the last observation of {repeated:,} episodes repeated as their final one")
    return arrays, tuple(notes)


def _assemble(rows: Rows, obs: NDArray[Any], final: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the store's arrays; obs [S, N, O] and final [Ep, N, O] are interleaved: T+1 rows per episode."""
    episodes, steps = len(rows.lengths), len(obs)
    offsets = np.concatenate(([0], np.cumsum(rows.lengths))).astype(np.int64)
    observations = np.empty((steps + episodes, *obs.shape[1:]), np.float32)
    observations[np.arange(steps) + np.repeat(np.arange(episodes), rows.lengths)] = obs
    observations[offsets[1:] + np.arange(episodes)] = final
    return {
        "observations": observations,
        "actions": rows.actions,
        "rewards": rows.rewards,
        "offsets": offsets,
        "terminated": rows.terminated,
        "truncated": ~rows.terminated,
    }


def _described(rows: Rows, reading: Reading, horizon: int) -> Described:
    """Describe data by --env, else the file's note, else the numbers. Raises UserError if they disagree."""
    _, n, width = rows.observations.shape
    if reading.env is not None:
        what = described.from_env(reading.env)
    elif reading.note is not None:
        what = described.from_note(reading.note)
    else:
        dims = rows.obs_dims or (width,) * n
        return described.from_numbers(reading.format, dims, rows.actions, rows.rewards, horizon)
    spec = what.spec
    expected, found = (spec.n_agents, spec.obs_dim, spec.act_dim), (n, width, rows.actions.shape[2])
    if expected != found:
        raise refused(f"expected agents, observations, actions of {what.env}: {expected}, found {found}")
    return what
