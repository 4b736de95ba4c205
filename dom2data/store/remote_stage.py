"""A stage at a URL: workers send blocks directly to the place where the dataset will be.

Such a store has no rename and no lock. The files under ``<url>/<id>/data`` become a dataset with the marker,
which is written last. Until then ``<url>/.dom2data/stage/<id>`` holds the recipe and a note per finished
block, as in a folder. Two writers with the same recipe write the same bytes; another recipe is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.errors import FAILED, UserError
from dom2data.store import contents, remote, zarr
from dom2data.store import manifest as manifests
from dom2data.store.layout import ArrayLayout
from dom2data.store.remote import Place
from dom2data.store.stage import Leaves


@dataclass(frozen=True)
class RemoteStage:
    """The unfinished dataset of one id at a URL; the counterpart of ``stage.Stage``."""

    dataset_id: str
    base: str

    @property
    def place(self) -> Place:
        return Place(self.base)

    @property
    def data(self) -> str:
        return self.place.folder(self.dataset_id)

    @property
    def notes(self) -> str:
        return f"{self.place.path}/.dom2data/stage/{self.dataset_id}"

    @property
    def needs(self) -> list[str]:
        """Files that every writer of blocks must be able to read."""
        return [f"{self.base.rstrip('/')}/.dom2data/stage/{self.dataset_id}/recipe.json"]

    def check(self, recipe: Mapping[str, Any], force: bool) -> None:
        """Check that this recipe may be written here; with ``force``, discard what conflicts with it.

        Raises UserError if a dataset with this id exists, or an unfinished one that has another recipe or
        belongs to an upload.
        """
        there = self.place.source(self.dataset_id)
        if not force and there.complete:
            raise UserError(
                f"expected a new id, found {there.where}; --force replaces it, --out names another"
            )
        found = self.recipe()
        if not force and (found not in (None, recipe) or remote.UPLOADING in there.sizes):
            raise UserError(
                f"expected to continue {there.where} as it was begun, found another recipe or an upload "
                "there; finish that one first, or --force discards it"
            )
        if found != recipe or there.complete:
            self.discard()

    def discard(self) -> None:
        """Remove everything of this id; the marker goes first, because without it the rest is no dataset."""
        place, data = self.place, self.data
        with place.reached():
            for name in sorted(place.source(self.dataset_id).sizes, key=lambda n: n != manifests.MARKER):
                place.fs.rm_file(f"{data}/{name}")
            for name in [f"{self.notes}/recipe.json", *self._blocks()]:
                if place.fs.exists(name):
                    place.fs.rm_file(name)

    def begin(self, recipe: Mapping[str, Any], create: Callable[[Path], None]) -> dict[int, Leaves]:
        """Return the finished blocks; ``create(data)`` makes the arrays' metadata.

        Lost metadata are sent again. A block that has lost a chunk is not finished, so it is made again.
        """
        place, begun = self.place, self.recipe() is not None
        if not begun:
            self.discard()
        with place.reached():
            found = place.fs.cat(names) if (names := self._blocks()) else {}
        noted: dict[int, Leaves] = {int(Path(name).stem): json.loads(text) for name, text in found.items()}
        sizes = place.source(self.dataset_id).sizes
        with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
            create(Path(folder))
            for metadata in Path(folder).rglob("zarr.json"):
                if sizes.get(metadata.relative_to(folder).as_posix()) == metadata.stat().st_size:
                    metadata.unlink()
            self._send(Path(folder))
        if not begun:
            with place.reached():
                remote.write(place, json.dumps(recipe, sort_keys=True).encode(), f"{self.notes}/recipe.json")
        there = {tuple(name.split("/")[:3]) for name, size in sizes.items() if size}  # array, "c", chunk
        return {
            block: leaves
            for block, leaves in noted.items()
            if all((array, "c", str(block)) in there for array in leaves)
        }

    def write_block(
        self, layouts: Mapping[str, ArrayLayout], block: int, arrays: Mapping[str, NDArray[Any]]
    ) -> Leaves:
        """Send a block: one chunk of every given array, and then the note that it is finished."""
        with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
            data, mine = Path(folder), {name: layouts[name] for name in arrays}
            zarr.create(data, mine)
            leaves = {name: zarr.write_chunk(data, name, mine[name], block, arrays[name]) for name in arrays}
            for metadata in data.rglob("zarr.json"):
                metadata.unlink()
            self._send(data)
        place = self.place
        with place.reached():
            remote.write(place, json.dumps(leaves).encode(), f"{self.notes}/blocks/{block}.json")
        return leaves

    def intact(self, layouts: Mapping[str, ArrayLayout], block: int, leaves: Leaves) -> bool:
        """Whether the note is complete: chunks are sent before it, and ``commit`` checks that all exist."""
        return set(leaves) == set(layouts) - {"offsets"}

    def write_arrays(
        self, layouts: Mapping[str, ArrayLayout], values: Mapping[str, NDArray[Any]]
    ) -> dict[str, list[str]]:
        """Send whole arrays; return their leaves by name."""
        mine = {name: layouts[name] for name in values}
        with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
            zarr.create(Path(folder), mine)
            leaves = zarr.write_arrays(Path(folder), mine, values)
            (Path(folder) / "zarr.json").unlink()  # the metadata of the whole group already exists
            self._send(Path(folder))
        return leaves

    def read(self, name: str, array: ArrayLayout) -> NDArray[Any]:
        """Read a whole array, which must be completely sent."""
        source = self.place.source(self.dataset_id)
        with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
            remote.fetch(source, contents.array_files(name, array), Path(folder))
            return np.array(zarr.read_array(Path(folder), name, array))

    def size(self) -> int:
        """Return the total size in bytes of the arrays' files."""
        return sum(self.place.source(self.dataset_id).sizes.values())

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Check that every chunk exists, write the manifest, and write the marker last.

        Raises UserError (code 1) if a file is lost; the same command then makes it again.
        """
        self._require_all(contents.layouts_of(manifest))
        with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
            manifests.write(Path(folder), manifest)
            marker = Path(folder) / manifests.MARKER
            content = marker.read_bytes()
            marker.unlink()
            self._send(Path(folder))
        place = self.place
        with place.reached():
            remote.write(place, content, f"{self.data}/{manifests.MARKER}")
            for name in [*self._blocks(), f"{self.notes}/recipe.json"]:
                place.fs.rm_file(name)

    def _require_all(self, layouts: Mapping[str, ArrayLayout]) -> None:
        sizes, place = self.place.source(self.dataset_id).sizes, self.place
        lost = [name for name in contents.files(layouts) if not sizes.get(name)]
        for name in lost:
            if name.count("/c/"):
                note = f"{self.notes}/blocks/{name.split('/c/')[1].split('/')[0]}.json"
                with place.reached():
                    if place.fs.exists(note):
                        place.fs.rm_file(note)
        if lost:
            raise UserError(
                f"{self.base}/{self.dataset_id}: expected {lost[0]}, found none (and {len(lost) - 1} more); "
                "the same command makes it again",
                FAILED,
            )

    def _send(self, folder: Path) -> None:
        """Upload every file of a local folder."""
        place = self.place
        with place.reached():
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    remote.write(
                        place, file.read_bytes(), f"{self.data}/{file.relative_to(folder).as_posix()}"
                    )

    def recipe(self) -> dict[str, Any] | None:
        """Return the recipe of the stage, or None if there is no stage."""
        place, name = self.place, f"{self.notes}/recipe.json"
        with place.reached():
            place.fs.invalidate_cache()
            return json.loads(place.fs.cat_file(name)) if place.fs.exists(name) else None

    def _blocks(self) -> list[str]:
        """Return the names of the notes of finished blocks."""
        place = self.place
        with place.reached():
            place.fs.invalidate_cache()
            try:
                return [str(name) for name in place.fs.find(f"{self.notes}/blocks")]
            except FileNotFoundError:
                return []
