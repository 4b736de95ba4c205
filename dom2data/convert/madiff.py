"""MADiff's npy files for MAMuJoCo.

Layout (Zhu et al., "MADiff: Offline Multi-agent Learning with Diffusion Models", NeurIPS 2024; for the
particle environments it reads OMAR's files, see ``omar``)::

    <env>/<quality>/obs.npy [S, N, O]   actions.npy [S, N, A]   rewards.npy [S, N]   path_lengths.npy [Ep]

The files have neither the observation after an episode's last step, nor whether the episode terminated or was
truncated. Our writer adds ``final_obs.npy`` [Ep, N, O] and ``dom2.json``, which MADiff ignores.
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
    """Write the folder ``path`` and return it."""
    found, following, last, _ = rows.of(dataset)
    with staged(path, force) as partial:
        partial.mkdir()
        np.save(partial / "obs.npy", found.observations)
        np.save(partial / "actions.npy", found.actions)
        np.save(partial / "rewards.npy", found.rewards)
        np.save(partial / "path_lengths.npy", found.lengths)
        np.save(partial / "final_obs.npy", following[last])
        (partial / described.FILE).write_text(described.note(dataset, "ends"))
    return path


def read(
    path: Path, *, env: str | None = None, ends: str = "auto", clip: bool = False, final: str = "drop"
) -> Imported:
    """Read a folder. Raises UserError: code 3 when the files are not as described, 2 for a wrong option."""
    files.require(path, "folder")
    used = {name: path / name for name in ("obs.npy", "actions.npy", "rewards.npy", "path_lengths.npy")}
    obs, actions, rewards, lengths = (files.npy(file) for file in used.values())
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or len(lengths) == 0 or obs.ndim != 3:
        raise refused(
            f"expected obs [S, N, O] and path_lengths [Ep] of integers, found {obs.shape} and "
            f"{lengths.dtype} {lengths.shape}"
        )
    lengths = lengths.astype(np.int64)
    if (lengths < 1).any():
        raise refused(f"path_lengths: expected 1 or more, found {int(lengths.min())}")
    if int(lengths.sum()) != len(obs):
        raise refused(f"path_lengths: expected {len(obs):,} steps in all, found {int(lengths.sum()):,}")
    if rewards.ndim == 3 and rewards.shape[2] == 1:
        rewards = rewards[..., 0]
    note = files.optional(path / described.FILE)
    terminated, says = rows.terminated_by(ends, lengths, note)
    following = None
    if (path / "final_obs.npy").is_file():
        used["final_obs.npy"] = path / "final_obs.npy"
        following = _next(obs, lengths, files.npy(used["final_obs.npy"]))
    reading = Reading("madiff", used, env, clip, final, note, {"ends": ends})
    return rows.imported(Rows(obs, actions, rewards, lengths, terminated, following), reading, (says,))


def _next(obs: np.ndarray, lengths: np.ndarray, final: np.ndarray) -> np.ndarray:
    if final.shape != (len(lengths), *obs.shape[1:]):
        raise refused(f"final_obs.npy: expected {(len(lengths), *obs.shape[1:])}, found {final.shape}")
    following = np.roll(obs, -1, axis=0)
    following[rows.last_steps(lengths)] = final
    return following
