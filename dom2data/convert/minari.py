"""Minari's HDF5: a folder that Minari 0.5 can open, list, iterate, sample, filter and split.

Layout (Minari's dataset standard, https://minari.farama.org/content/dataset_standards/)::

    <root>/<id>/data/metadata.json       dom2data.store.minari
    <root>/<id>/data/main_data.hdf5
        episode_<i>/                     attributes id, total_steps, rewards_sum, return_per_agent, ...
            observations/<agent>         [T+1, O of the agent] float32
            actions/<agent>              [T, A] float32
            rewards                      [T] float32, the team's
            terminations, truncations    [T] bool
            infos/rewards                [T+1, N] float32, each agent's; row t+1 is of step t, row 0 is zero

Minari's own writer makes every array resizable and chunked, which for 25 steps takes several times the space
and time. Here arrays are stored inside their headers if they fit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray

from dom2data import ids
from dom2data.convert.minari_read import read
from dom2data.convert.minari_seeds import beginnings
from dom2data.convert.staging import staged
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.store import minari as minari_metadata
from dom2data.store.layout import layout

__all__ = ["copy", "default_path", "read", "write"]

FILE = "main_data.hdf5"
_COMPACT_BYTES = 60_000  # HDF5 stores at most 64 kB in an object's header


def default_path(dataset_id: str, base: Path) -> Path:
    """Return ``<root>/dom2/tag-medium-minari-v0`` for ``dom2/tag-medium-v0``."""
    space, name, version = ids.split(dataset_id)
    return base / space / f"{name}-minari-v{version or 0}"


def write(dataset: Dataset, path: Path, *, root: Path | None = None, force: bool = False) -> Path:
    """Write a dataset in Minari's HDF5 format to ``path``; return ``path``.

    Its Minari id is the path below ``root`` [Minari's own root]; outside of it, the folder's name.
    Raises UserError like ``staged``, and when Minari would refuse the id, or HDF5 an agent's name.
    """
    path = Path(os.path.abspath(path))
    dataset_id = _id(path, ids.root(root))
    if odd := [agent for agent in dataset.spec.agent_names if "/" in agent or agent in ("", ".")]:
        raise UserError(f"expected agents' names without '/', found {odd[0]!r}; HDF5 takes it for a folder")
    with staged(path, force) as unfinished:
        data = unfinished / "data"
        data.mkdir(parents=True)
        _write_episodes(dataset, data / FILE)
        _write_metadata(dataset, data, dataset_id)
    return path


def copy(dataset: Dataset, base: Path, force: bool = False) -> Path:
    """``write`` to ``default_path`` below ``base``; an existing copy with the same content is kept."""
    path = default_path(dataset.id, base)
    try:
        listed = json.loads((path / "data" / minari_metadata.FILE).read_text())
    except (OSError, ValueError):
        listed = {}
    if listed.get("content_hash") == dataset.hash and not force:
        return path
    return write(dataset, path, root=base, force=force)


def _id(path: Path, root: Path) -> str:
    dataset_id = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    if ids.split(dataset_id)[2] is None:
        raise UserError(
            f"expected a folder named like tag-medium-minari-v0, found {path.name}; Minari needs the version"
        )
    return dataset_id


def _write_metadata(dataset: Dataset, data: Path, dataset_id: str) -> None:
    manifest = dataset.manifest
    kept = ("schema", "env", "quality", "spec", "hash", "recipe", "sources", "policies", "parents")
    own = {key: manifest[key] for key in kept} | {"further": _further(dataset)}
    found = minari_metadata.metadata(manifest, "hdf5", dataset_id, (data / FILE).stat().st_size)
    text = json.dumps(found | {minari_metadata.OWN: own}, indent=1)
    (data / minari_metadata.FILE).write_text(text)


def _write_episodes(dataset: Dataset, file: Path) -> None:
    steps, rows = episode_arrays(dataset)
    attributes, offsets = episode_attributes(dataset), dataset.offsets
    groups = {path.rpartition("/")[0] for path in (*steps, *rows)} - {""}
    writer = _Writer()
    with h5py.File(file, "w", libver="latest", track_order=True) as out:
        for i in range(dataset.n_episodes):
            start, stop = int(offsets[i]), int(offsets[i + 1])
            episode = h5g.create(out.id, f"episode_{i}".encode(), gcpl=writer.group)
            writer.attribute(episode, "id", np.int64(i))
            writer.attribute(episode, "total_steps", np.int64(stop - start))
            for name, values in attributes.items():
                writer.attribute(episode, name, values[i])
            inside = {path: h5g.create(episode, path.encode(), gcpl=writer.group) for path in groups}
            inside[""] = episode
            for arrays, first, last in ((steps, start, stop), (rows, start + i, stop + i + 1)):
                for path, array in arrays.items():
                    folder, _, name = path.rpartition("/")
                    writer.dataset(inside[folder], name, array[first:last])


def episode_arrays(dataset: Dataset) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return all arrays of episodes, by path: those with a row per step, and those with an extra row each."""
    return _by_step(dataset), _by_row(dataset)


def _by_step(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Return the arrays with a row per step [S, ...], by their path in an episode."""
    spec, actions, last = dataset.spec, dataset.array("actions"), dataset.offsets[1:] - 1
    ended = {name: np.zeros(len(dataset), bool) for name in ("terminations", "truncations")}
    ended["terminations"][last] = dataset.array("terminated")
    ended["truncations"][last] = dataset.array("truncated")
    return {
        **{
            f"actions/{agent}": np.ascontiguousarray(actions[:, n])
            for n, agent in enumerate(spec.agent_names)
        },
        "rewards": np.ascontiguousarray(spec.team(dataset.array("rewards"))),
        **ended,
    }


def _by_row(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Return the arrays with an extra row per episode [S + Ep, ...], by their path in an episode."""
    spec, observations, rewards = dataset.spec, dataset.array("observations"), dataset.array("rewards")
    rows = zip(spec.agent_names, spec.obs_dims, strict=True)
    padded = np.zeros((len(observations), spec.n_agents), np.float32)
    first = np.zeros(len(observations), bool)
    first[dataset.offsets[:-1] + np.arange(dataset.n_episodes)] = True
    padded[~first] = rewards
    return {
        **{
            f"observations/{agent}": np.ascontiguousarray(observations[:, n, :size])
            for n, (agent, size) in enumerate(rows)
        },
        "infos/rewards": padded,
    }


def episode_attributes(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Return the attributes of all episodes, [Ep, ...] by name: those of Minari's collector, and ours."""
    team, starts = dataset.spec.team(dataset.array("rewards")).astype(np.float64), dataset.offsets[:-1]
    mean = np.add.reduceat(team, starts) / dataset.lengths
    square = np.add.reduceat((team - np.repeat(mean, dataset.lengths)) ** 2, starts) / dataset.lengths
    found: dict[str, NDArray[Any]] = {
        "rewards_sum": dataset.returns.astype(np.float64),
        "rewards_mean": mean,
        "rewards_std": np.sqrt(square),
        "rewards_max": np.maximum.reduceat(team, starts),
        "rewards_min": np.minimum.reduceat(team, starts),
        "return_per_agent": dataset.agent_returns,
    }
    found |= {name: dataset.array(name) for name in ("source", *_further(dataset))}
    return found | beginnings(dataset)


def _further(dataset: Dataset) -> list[str]:
    """Return the names of the additional arrays of derived datasets: episode numbers in other datasets."""
    plain = layout(dataset.spec, dataset.n_episodes, len(dataset))
    return [name for name in dataset.manifest["arrays"] if name not in plain]


class _Writer:
    """Writes HDF5 objects without h5py's convenience layer, at half a million per minute."""

    def __init__(self) -> None:
        self.group = h5p.create(h5p.GROUP_CREATE)
        self.group.set_attr_phase_change(32, 0)  # else HDF5 builds an index for more than 8 attributes
        self._plans: dict[tuple[tuple[int, ...], np.dtype[Any]], tuple[Any, Any, Any]] = {}

    def attribute(self, where: h5g.GroupID, name: str, value: Any) -> None:
        values = np.asarray(value)
        kind, space, _ = self._plan(values)
        h5a.create(where, name.encode(), kind, space).write(values)

    def dataset(self, where: h5g.GroupID, name: str, values: NDArray[Any]) -> None:
        kind, space, how = self._plan(values)
        h5d.create(where, name.encode(), kind, space, dcpl=how).write(h5s.ALL, h5s.ALL, values)

    def _plan(self, values: NDArray[Any]) -> tuple[Any, Any, Any]:
        key = values.shape, values.dtype
        if key not in self._plans:
            how = h5p.create(h5p.DATASET_CREATE)
            how.set_obj_track_times(False)  # equal data give equal bytes
            how.set_layout(h5d.COMPACT if values.nbytes <= _COMPACT_BYTES else h5d.CONTIGUOUS)
            how.set_fill_time(h5d.FILL_TIME_NEVER)
            space = h5s.create_simple(values.shape) if values.shape else h5s.create(h5s.SCALAR)
            self._plans[key] = h5t.py_create(values.dtype, logical=True), space, how
        return self._plans[key]
