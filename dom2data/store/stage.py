"""The staging folder of an unfinished dataset: ``<root>/.dom2data/stage/<id>``, committed by one rename.

A stage holds ``recipe.json`` (written once its arrays exist), ``blocks/<b>.json`` with the leaf hashes of
each finished block (written after its chunks), and ``dataset/data``, which becomes the dataset.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dom2data.errors import FAILED, UserError
from dom2data.new_file import replacing, sync
from dom2data.store import manifest as manifests
from dom2data.store import minari, zarr
from dom2data.store.layout import ArrayLayout
from dom2data.store.lock import only_writer

Leaves = dict[str, str]
"""Array name -> leaf hash of one chunk."""


@dataclass(frozen=True)
class Stage:
    """The unfinished dataset of one id, or a shard of it; only the holder of the lock may use it."""

    dataset_id: str
    base: Path
    shard: str = ""
    """such as ``3-of-8``; a shard is never committed: ``shards.merge`` takes over its blocks"""

    @property
    def folder(self) -> Path:
        if self.shard:
            return shards_folder(self.dataset_id, self.base) / self.shard
        return self.base / ".dom2data" / "stage" / self.dataset_id

    @property
    def data(self) -> Path:
        return self.folder / "dataset" / "data"

    @property
    def target(self) -> Path:
        return self.base / self.dataset_id

    @property
    def _replaced(self) -> Path:
        return self.folder / "replaced"

    def check(self, recipe: Mapping[str, Any], force: bool, otherwise: str = "--out names another") -> None:
        """Check that this recipe may be written here; with ``force``, discard a stage of another recipe.

        Raises UserError if a dataset with this id exists (the message ends with the alternative
        ``otherwise``), or an unfinished one of another recipe.
        """
        if self.target.exists() and not force:
            raise UserError(
                f"expected a new id, found {self.dataset_id} in {self.base}; --force replaces it, {otherwise}"
            )
        found = self.recipe()
        if found is not None and found != recipe:
            if not force:
                other = ", ".join(f"{k} {v}" for k, v in found.items() if v != recipe.get(k))
                raise UserError(
                    f"expected to continue {self.dataset_id} as it was begun ({other}), found another; "
                    "finish that one first, or --force discards it"
                )
            self.discard()

    def discard(self) -> None:
        """Remove the stage; the recipe goes first, because without it the rest is ignored."""
        (self.folder / "recipe.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, recipe: Mapping[str, Any], create: Callable[[Path], None]) -> dict[int, Leaves]:
        """Return the finished blocks; a new stage is first set up for this recipe with ``create(data)``."""
        if self.recipe() is None:
            self.discard()
            (self.folder / "blocks").mkdir(parents=True)
            self.data.mkdir(parents=True)
            create(self.data)
            write_note(self.folder / "recipe.json", recipe)
        self._clean()
        return self.blocks()

    def blocks(self) -> dict[int, Leaves]:
        """Return the leaf hashes of the blocks noted as finished."""
        noted = {int(p.stem): read_note(p) for p in (self.folder / "blocks").glob("*.json")}
        return {block: leaves for block, leaves in noted.items() if leaves is not None}

    def _clean(self) -> None:
        """Remove what a killed writer left among the arrays: partial files, an uncommitted manifest."""
        for name in (manifests.MARKER, manifests.FILE, minari.FILE):
            (self.data / name).unlink(missing_ok=True)
        for file in self.data.rglob("*.partial"):
            file.unlink()

    def recipe(self) -> dict[str, Any] | None:
        """Return the recipe of the stage, or None if there is no stage."""
        return read_note(self.folder / "recipe.json")

    @property
    def needs(self) -> list[str]:
        """Files that every writer of blocks must be able to read."""
        return [str(self.folder / "recipe.json")]

    def write_block(
        self, layouts: Mapping[str, ArrayLayout], block: int, arrays: Mapping[str, NDArray[Any]]
    ) -> Leaves:
        """Write a block: one chunk of every given array, and then the note that it is finished."""
        leaves = {
            name: zarr.write_chunk(self.data, name, layouts[name], block, arrays[name]) for name in arrays
        }
        self.record(block, leaves)
        return leaves

    def record(self, block: int, leaves: Leaves) -> None:
        """Record that all chunks of a block are written and checked."""
        write_note(self.folder / "blocks" / f"{block}.json", leaves)

    def intact(self, layouts: Mapping[str, ArrayLayout], block: int, leaves: Leaves) -> bool:
        """Whether the chunks of a block noted as finished are undamaged (a power cut may have lost data)."""
        try:
            for name, leaf in leaves.items():
                zarr.read_chunk(self.data, name, layouts[name], block, leaf)
        except (UserError, KeyError):
            return False
        return True

    def write_arrays(
        self, layouts: Mapping[str, ArrayLayout], values: Mapping[str, NDArray[Any]]
    ) -> dict[str, list[str]]:
        """Write whole arrays; return their leaves by name."""
        return zarr.write_arrays(self.data, layouts, values)

    def read(self, name: str, array: ArrayLayout) -> NDArray[Any]:
        """Read a whole array, which must be completely written."""
        return zarr.read_array(self.data, name, array)

    def size(self) -> int:
        """Return the total size in bytes of the arrays' files."""
        return sum(file.stat().st_size for file in self.data.rglob("*") if file.is_file())

    def require_space(self, nbytes: int) -> None:
        """Raises UserError (code 1) if the disk lacks room for ``nbytes``, less what is already stored."""
        missing, free = nbytes - self.size(), shutil.disk_usage(self.base).free
        if free < missing:
            raise UserError(
                f"expected {missing:,} bytes free under {self.base}, found {free:,}; "
                "free some, or choose another --root",
                FAILED,
            )

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Write manifest and marker, and move the dataset into place; a replaced one is removed last."""
        manifests.write(self.data, manifest)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self.target.exists():
            os.replace(self.target, self._replaced)
        os.replace(self.folder / "dataset", self.target)
        sync(self.target.parent)
        self.discard()

    def recover(self) -> None:
        """Undo a commit that was interrupted between its renames, or clean up after one that was complete."""
        if self._replaced.exists() and not self.target.exists():
            os.replace(self._replaced, self.target)
        if not self.data.exists():
            self.discard()


def shards_folder(dataset_id: str, base: Path) -> Path:
    """Return the folder for the shards of an id under a root."""
    return base / ".dom2data" / "shards" / dataset_id


@contextmanager
def open_stage(dataset_id: str, base: Path, shard: str = "") -> Iterator[Stage]:
    """Open the stage of an id, or of a shard of it, and hold its lock.

    Raises UserError (code 1) when another process holds the lock, the root is not writable, or its disk is
    full.
    """
    with only_writer(f"{dataset_id}--shard-{shard}" if shard else dataset_id, base):
        stage = Stage(dataset_id, base, shard)
        stage.recover()  # after a kill
        try:
            with full_disk(dataset_id, base):
                yield stage
        finally:
            stage.recover()  # after an interrupt


@contextmanager
def full_disk(dataset_id: str, base: Path | str) -> Iterator[None]:
    """Turn "no space left" into a UserError (code 1) that says that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"expected room for {dataset_id} under {base}, found the disk full; nothing was "
            "committed, and none is lost: free some space and run the same command again",
            FAILED,
        ) from error


def read_note(path: Path) -> Any:
    """Read what ``write_note`` wrote; None if the file is missing, or damaged by a power cut."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_note(path: Path, value: Any) -> None:
    """Write JSON atomically: the file is either complete or unchanged."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, sort_keys=True))
