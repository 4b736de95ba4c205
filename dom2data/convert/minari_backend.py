"""Minari storage for our Zarr datasets, opened by ``minari.load_dataset``; reads whole arrays, once.

It is read-only, because these datasets never change. ``minari_hook`` registers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from minari.dataset.minari_storage import MinariStorage

from dom2data.convert.minari import episode_arrays, episode_attributes
from dom2data.dataset import open as open_dataset
from dom2data.envs.joint import action_space, observation_space
from dom2data.store import manifest as manifests

Tree = dict[str, Any]


class ZarrStorage(MinariStorage):
    """Gives the same episodes and attributes that ``dom2data convert ID --to minari`` writes."""

    FORMAT = "zarr"

    def __init__(self, data_path: Path, *_: Any, **__: Any):
        data = Path(data_path).absolute()
        dataset_id = manifests.read(data)["id"]
        self._dataset = open_dataset(dataset_id, data.parents[len(dataset_id.split("/"))])
        spec = self._dataset.spec
        super().__init__(data, observation_space(spec), action_space(spec))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the path, so that another process reopens the dataset instead of receiving arrays."""
        return type(self), (self.data_path,)

    @cached_property
    def _arrays(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return episode_arrays(self._dataset)

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        return episode_attributes(self._dataset)

    def get_episodes(self, episode_indices: Iterable[int]) -> Iterator[Tree]:
        """Yield episodes as Minari's dictionaries."""
        steps, rows = self._arrays
        for i in map(int, episode_indices):
            start, stop = int(self._dataset.offsets[i]), int(self._dataset.offsets[i + 1])
            found = {path: array[start:stop].copy() for path, array in steps.items()}
            found |= {path: array[start + i : stop + i + 1].copy() for path, array in rows.items()}
            yield {"id": i, **_nested(found)}

    def get_episode_metadata(self, episode_indices: Iterable[int]) -> Iterator[Tree]:
        """Yield the attributes of episodes."""
        for i in map(int, episode_indices):
            found = {name: values[i] for name, values in self._attributes.items()}
            found |= {"seed": int(found["seed"])} if "seed" in found else {}  # gymnasium accepts only int
            yield {"id": i, "total_steps": int(self._dataset.lengths[i])} | _nested(found)

    def update_episodes(self, episodes: Any) -> NoReturn:
        """Raises ValueError: datasets of this project do not change."""
        raise ValueError(_READ_ONLY)

    def update_episode_metadata(self, metadatas: Any, episode_indices: Any = None) -> NoReturn:
        """Raises ValueError: datasets of this project do not change."""
        raise ValueError(_READ_ONLY)

    def update_metadata(self, metadata: Any) -> NoReturn:
        """Raises ValueError: datasets of this project do not change."""
        raise ValueError(_READ_ONLY)

    @classmethod
    def _create(cls, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(_READ_ONLY)


_READ_ONLY = (
    "expected to read this dataset, found an attempt to write it; `dom2data convert ID --to minari` makes a "
    "copy in HDF5 that Minari can change"
)


def _nested(flat: Mapping[str, Any]) -> Tree:
    """Convert {"a/b": x} to {"a": {"b": x}}."""
    found: Tree = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        inside = found
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[name] = value
    return found
