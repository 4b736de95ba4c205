"""OMAR's npy files, the format of the published tag, world, spread and 2-agent HalfCheetah datasets.

Layout (Pan et al., "Plan Better Amid Conservatism", ICML 2022; its loader reads one folder per seed)::

    <env>/<type>/seed_<k>_data/
        obs_<i>.npy [S, O of agent i]    acs_<i>.npy [S, A]    rews_<i>.npy [S]
        next_obs_<i>.npy                 dones_<i>.npy [S]
        states_<i>.npy, next_states_<i>.npy    HalfCheetah only, and not read

Files number all agents; in tag and world the prey is last. Particle episodes have 25 steps, and their dones
are all 0; HalfCheetah's are 1 at its time limit, every 1000 steps. Our writer adds ``dom2.json``. It writes
no prey (which is part of our environment), and no states.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dom2data.convert import described, files, rows
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.rows import Reading, Rows
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset
from dom2data.errors import UserError

HORIZON = 25
_FIELDS = ("obs", "acs", "rews", "next_obs", "dones")


def write(dataset: Dataset, path: Path, *, force: bool = False, seed: int = 0) -> Path:
    """Write ``seed_<seed>_data`` into the folder ``path``, beside other seeds; return the new folder."""
    target = path / f"seed_{seed}_data"
    found, following, ends, _ = rows.of(dataset)
    if (found.lengths == HORIZON).all() and not found.terminated.any():
        ends[:] = False  # as in the published particle files
    with staged(target, force) as partial:
        partial.mkdir()
        for i, width in enumerate(dataset.spec.obs_dims):
            np.save(partial / f"obs_{i}.npy", found.observations[:, i, :width])
            np.save(partial / f"acs_{i}.npy", found.actions[:, i])
            np.save(partial / f"rews_{i}.npy", found.rewards[:, i])
            np.save(partial / f"next_obs_{i}.npy", following[:, i, :width])
            np.save(partial / f"dones_{i}.npy", ends.astype(np.float32))
        (partial / described.FILE).write_text(described.note(dataset, "ends"))
    return target


def read(
    path: Path,
    *,
    env: str | None = None,
    seed: int | None = None,
    prey: str = "drop",
    horizon: int = HORIZON,
    ends: str = "auto",
    clip: bool = False,
) -> Imported:
    """Read a seed's folder, or one of several by ``seed``; "drop" or "keep" a last agent of another width.

    Raises UserError: code 3 when the files are not as described, 2 for a wrong option.
    """
    if prey not in ("drop", "keep"):
        raise UserError(f"expected prey to be drop or keep, found {prey!r}")
    folder = _folder(path, seed)
    arrays, used = _agents(folder)
    obs = arrays["obs"]
    notes, keep = [], len(obs)
    widths = [array.shape[1] for array in obs]
    note = files.optional(folder / described.FILE)  # with our note, the files contain no prey
    if (
        note is None
        and prey == "drop"
        and keep > 1
        and len(set(widths[:-1])) == 1
        and widths[-1] != widths[0]
    ):
        keep -= 1
        notes.append(f"agent {keep}, whose observation is {widths[-1]} wide, taken for the prey and dropped")
    width = max(widths[:keep])

    def joint(name: str) -> np.ndarray:
        padded = [np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in arrays[name][:keep]]
        return np.stack(padded, axis=1)

    done = _done(arrays["dones"])
    lengths, more = _lengths(done, horizon)
    how = ends if done.any() else "truncated"
    terminated, says = rows.terminated_by(how, lengths, note, ended=bool(done[-1]))
    found = Rows(
        joint("obs"),
        np.stack(arrays["acs"][:keep], axis=1),
        np.stack([a.reshape(-1) for a in arrays["rews"][:keep]], axis=1),
        lengths,
        terminated,
        joint("next_obs"),
        tuple(widths[:keep]),
    )
    options = {"seed": seed, "prey": prey, "horizon": horizon, "ends": ends}
    reading = Reading("omar", used, env, clip, note=note, options=options)
    return rows.imported(found, reading, (*notes, *more, says))


def _folder(path: Path, seed: int | None) -> Path:
    files.require(path, "folder")
    if (path / "obs_0.npy").exists():
        return path
    there = sorted(child.name for child in path.glob("seed_*_data"))
    chosen = there if seed is None else [name for name in there if name == f"seed_{seed}_data"]
    if len(chosen) != 1:
        raise UserError(
            f"expected obs_0.npy or one seed_<k>_data in {path}, found {', '.join(there) or 'neither'}; "
            "--option seed=K chooses one"
        )
    return path / chosen[0]


def _agents(folder: Path) -> tuple[dict[str, list[np.ndarray]], dict[str, Path]]:
    """Read every field of every agent; all must have the same number of rows."""
    count = 0
    while (folder / f"obs_{count}.npy").exists():
        count += 1
    used = {f"{field}_{i}.npy": folder / f"{field}_{i}.npy" for field in _FIELDS for i in range(count)}
    arrays = {field: [files.npy(used[f"{field}_{i}.npy"]) for i in range(count)] for field in _FIELDS}
    steps = len(arrays["obs"][0]) if arrays["obs"][0].ndim else 0
    action = arrays["acs"][0].shape[1:]
    for field, found in arrays.items():
        for i, array in enumerate(found):
            width = {"acs": action, "next_obs": arrays["obs"][i].shape[1:], "obs": array.shape[1:]}.get(field)
            good = array.shape == (steps, *width) if width and len(width) == 1 else array.size == steps
            if not good or array.ndim > 2 or steps == 0:
                raise refused(f"{field}_{i}.npy: expected {steps} rows like the others', found {array.shape}")
    return arrays, used


def _done(dones: list[np.ndarray]) -> np.ndarray:
    """Return the done flags [S], which must be the same for all agents."""
    first, *others = (rows.flags(f"dones_{i}.npy", done.reshape(-1)) for i, done in enumerate(dones))
    if any((other != first).any() for other in others):
        raise refused("expected agents to be done at the same steps, found others")
    return first


def _lengths(done: np.ndarray, horizon: int) -> tuple[np.ndarray, tuple[str, ...]]:
    if done.any():
        return rows.lengths_from(done)
    steps = len(done)
    if horizon < 1:
        raise UserError(f"expected horizon to be 1 or more, found {horizon}")
    if steps % horizon:
        raise refused(f"expected whole episodes of {horizon} steps (no dones are set), found {steps:,} rows")
    return np.full(steps // horizon, horizon, np.int64), (f"no dones are set: episodes of {horizon} steps",)
