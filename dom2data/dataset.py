"""The ``Dataset`` class: metadata is available at once, arrays are read on first use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import ids, stats
from dom2data.spec import Bool, EnvSpec, Episode, Float32
from dom2data.store import manifest as manifests
from dom2data.store import remote
from dom2data.store.layout import ArrayLayout, layout

Int64 = NDArray[np.int64]


class Dataset:
    """Whole episodes, concatenated, with an offsets table.

    ``load(name)`` reads one array of the store (``observations``, ``actions``, ``rewards``, ...); it is
    called at most once per array. ``load_chunk(name, number)`` reads one chunk of an array and is called on
    every request; without it, chunks are slices of the array. ``manifest`` is the JSON document described
    in ``store/manifest.py``; ``checks`` says that ``load`` compares every chunk with its hash there.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        load: Callable[[str], NDArray[Any]],
        load_chunk: Callable[[str, int], NDArray[Any]] | None = None,
        checks: bool = False,
    ):
        self.manifest = manifest
        self.spec = EnvSpec.from_json(manifest["spec"])
        self._load, self._load_chunk, self._checks = load, load_chunk, checks
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def id(self) -> str:
        """The full id, such as ``dom2/tag-medium-v0``."""
        return self.manifest["id"]

    @property
    def env(self) -> str:
        """The short name of the environment, such as ``tag``."""
        return self.manifest["env"]

    @property
    def quality(self) -> str | None:
        """The recipe's quality (a subset keeps its parent's); None for imported data without one."""
        return self.manifest["quality"]

    @property
    def hash(self) -> str:
        """The content hash."""
        return self.manifest["hash"]

    @property
    def n_episodes(self) -> int:
        return self.manifest["episodes"]

    def __len__(self) -> int:
        """Number of steps (transitions)."""
        return self.manifest["steps"]

    def __repr__(self) -> str:
        return f"Dataset({self.id}: {len(self)} steps, {self.n_episodes} episodes)"

    def array(self, name: str) -> NDArray[Any]:
        """Return one array, read on first use. Raises UserError (code 3) if the store is damaged."""
        if name not in self._arrays:
            self._arrays[name] = self._load(name)
        return self._arrays[name]

    def layout(self, name: str) -> ArrayLayout:
        """Return an array's shape and how it is cut into chunks."""
        return ArrayLayout.from_json(self.manifest["arrays"][name])

    def chunk(self, name: str, number: int) -> NDArray[Any]:
        """Read and check only the rows ``layout(name).rows(number)`` of an array.

        Chunks are not cached, so a dataset larger than memory can be read chunk by chunk. Raises UserError:
        code 3 if the store is damaged, 1 if it cannot be reached.
        """
        if self._load_chunk is None or name in self._arrays:
            return self.array(name)[self.layout(name).rows(number)]
        return self._load_chunk(name, number)

    def leaves(self, name: str) -> list[str]:
        """The hashes of an array's chunks as they are now; an array that is read for this is hashed once."""
        if self._checks and name not in self._arrays:
            self.array(name)  # compares them with these
            return self.manifest["arrays"][name]["leaves"]
        return manifests.leaves(self.layout(name), self.array(name))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return every array by name: observations [steps+episodes, N, O] (step t of episode i is row t + i),
        actions [steps, N, A], rewards [steps, N], offsets [episodes+1], returns [episodes],
        agent_returns [episodes, N], terminated, truncated, source [episodes]."""
        return {name: self.array(name) for name in self.manifest["arrays"]}

    @property
    def offsets(self) -> Int64:
        """Episode boundaries [episodes+1]: episode i is steps ``offsets[i]:offsets[i+1]``."""
        return self.array("offsets")

    @property
    def returns(self) -> Float32:
        """Team return of every episode [episodes], undiscounted."""
        return self.array("returns")

    @property
    def agent_returns(self) -> Float32:
        """Return of every agent in every episode [episodes, N], undiscounted."""
        return self.array("agent_returns")

    @cached_property
    def lengths(self) -> Int64:
        """Number of steps of every episode [episodes]."""
        return np.diff(self.offsets)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes in order, as views of the arrays."""
        obs, actions, rewards = (self.array(name) for name in ("observations", "actions", "rewards"))
        terminated, truncated = self.array("terminated"), self.array("truncated")
        for i in range(self.n_episodes):
            start, stop = int(self.offsets[i]), int(self.offsets[i + 1])
            yield Episode(
                observations=obs[start + i : stop + i + 1],
                actions=actions[start:stop],
                rewards=rewards[start:stop],
                terminated=bool(terminated[i]),
                truncated=bool(truncated[i]),
            )


def open(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Open a dataset by its full or short name (``tag-medium``: the newest ``dom2/tag-medium-v<N>``).

    ``root`` is a folder, or a URL such as ``s3://bucket/folder`` (``store/remote.py``).
    Raises UserError: code 2 when no dataset has this name, 3 when it is incomplete or of another schema.
    Reading an array raises it with code 1 if the dataset has been replaced since.
    """
    base = ids.place(root)
    if isinstance(base, str):
        return Dataset(*remote.open(name, base), checks=True)
    dataset_id = ids.resolve(name, base)
    data = ids.directory(dataset_id, base)
    manifest = manifests.read(data)
    manifests.require_named(manifest, dataset_id, str(data))
    return _opened(data, manifest, manifests.marker(data))


def _opened(data: Path, manifest: dict[str, Any], marker: str) -> Dataset:
    looked_at: dict[str, ArrayLayout] = {}
    hashed: set[tuple[str, int]] = set()

    def stored(array: str) -> ArrayLayout:
        if array not in looked_at:
            expected = ArrayLayout.from_json(manifest["arrays"][array])
            manifests.require_stored(data, array, expected)
            looked_at[array] = expected
        return looked_at[array]

    def load(array: str) -> NDArray[Any]:
        from dom2data.store import zarr  # half a second to import, and needed only for the arrays

        with manifests.unchanged(data, marker):  # otherwise half of it may come from another dataset
            return zarr.read_array(data, array, stored(array), manifest["arrays"][array]["leaves"])

    def load_chunk(array: str, number: int) -> NDArray[Any]:
        from dom2data.store import zarr

        # Check the hash once, later only the chunk's own checksum, which takes a tenth of the time.
        leaf = None if (array, number) in hashed else manifest["arrays"][array]["leaves"][number]
        with manifests.unchanged(data, marker):
            values = zarr.read_chunk(data, array, stored(array), number, leaf)
        hashed.add((array, number))
        return values

    return Dataset(manifest, load, load_chunk, checks=True)


def from_arrays(
    spec: EnvSpec,
    observations: Float32,
    actions: Float32,
    rewards: Float32,
    offsets: NDArray[Any],
    *,
    terminated: Bool | None = None,
    truncated: Bool | None = None,
    source: NDArray[Any] | None = None,
    env: str | None = None,
    quality: str | None = None,
    dataset_id: str = "memory/unnamed-v0",
) -> Dataset:
    """Make a dataset in memory from observations [steps+episodes, N, O], actions [steps, N, A], rewards
    [steps, N], offsets [episodes+1]. Without flags every episode counts as truncated (by its time limit).

    Raises ValueError for inconsistent shapes.
    """
    offsets = np.asarray(offsets, np.int64)
    episodes, steps = len(offsets) - 1, len(actions)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != steps or (np.diff(offsets) <= 0).any():
        raise ValueError(
            f"offsets: expected increasing from 0 to {steps}, found {np.array2string(offsets, threshold=6)}"
        )
    terminated = np.zeros(episodes, bool) if terminated is None else np.asarray(terminated, bool)
    arrays: dict[str, NDArray[Any]] = {
        "observations": np.asarray(observations, np.float32),
        "actions": np.asarray(actions, np.float32),
        "rewards": np.asarray(rewards, np.float32),
        "offsets": offsets,
        "terminated": terminated,
        "truncated": ~terminated if truncated is None else np.asarray(truncated, bool),
        "source": np.zeros(episodes, np.int64) if source is None else np.asarray(source, np.int64),
    }
    layouts = layout(spec, episodes, steps)
    for name, array in arrays.items():
        if array.shape != layouts[name].shape:
            raise ValueError(f"{name}: expected shape {layouts[name].shape}, found {array.shape}")
    # Computed from the rewards as stored, in float32.
    arrays["returns"], arrays["agent_returns"] = stats.episode_returns(spec, arrays["rewards"], offsets[:-1])
    leaves = {name: manifests.leaves(array, arrays[name]) for name, array in layouts.items()}
    entries = manifests.array_entries(layouts, leaves)
    manifest: dict[str, Any] = {
        "schema": manifests.SCHEMA,
        "id": dataset_id,
        "env": env or spec.env_id,
        "quality": quality,
        "spec": spec.to_json(),
        "steps": steps,
        "episodes": episodes,
        "arrays": entries,
        "hash": manifests.content_hash(spec, entries),
        "recipe": None,
        "parents": [],
    }
    return Dataset(manifest, partial(dict.__getitem__, arrays))
