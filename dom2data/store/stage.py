"""Where a dataset grows before it is one: ``<root>/.dom2data/stage/<id>``, committed by one rename.

A stage holds ``recipe.json`` (written once its arrays exist), ``blocks/<b>.json`` with the leaf hashes of
every finished block (written after its chunks), and ``dataset/data``, which becomes the dataset.
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
    """The unfinished dataset of one id, or a shard of it; only the holder of the lock has one."""

    dataset_id: str
    base: Path
    shard: str = ""
    """such as ``3-of-8``; a shard is never committed, ``shards.merge`` adopts its blocks"""

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
        """Make sure that this recipe may be written here; with ``force``, discard what another one began.

        Raises UserError, which says what else can be done (``otherwise``), when a dataset of this id exists,
        and when an unfinished one of another recipe does.
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
        """Forget what was begun: the recipe first, without which the rest counts for nothing."""
        (self.folder / "recipe.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, recipe: Mapping[str, Any], create: Callable[[Path], None]) -> dict[int, Leaves]:
        """The finished blocks of a stage of this recipe; a new one is made with ``create(data)``."""
        if self.recipe() is None:
            self.discard()
            (self.folder / "blocks").mkdir(parents=True)
            self.data.mkdir(parents=True)
            create(self.data)
            write_note(self.folder / "recipe.json", recipe)
        self._clean()
        return self.blocks()

    def blocks(self) -> dict[int, Leaves]:
        """The notes of finished blocks."""
        noted = {int(p.stem): read_note(p) for p in (self.folder / "blocks").glob("*.json")}
        return {block: leaves for block, leaves in noted.items() if leaves is not None}

    def _clean(self) -> None:
        """Remove what a killed writer left among the arrays: files half written, an uncommitted manifest."""
        for name in (manifests.MARKER, manifests.FILE, minari.FILE):
            (self.data / name).unlink(missing_ok=True)
        for file in self.data.rglob("*.partial"):
            file.unlink()

    def recipe(self) -> dict[str, Any] | None:
        """The recipe of what was begun here."""
        return read_note(self.folder / "recipe.json")

    @property
    def needs(self) -> list[str]:
        """What anyone must see who is to write a block."""
        return [str(self.folder / "recipe.json")]

    def write_block(
        self, layouts: Mapping[str, ArrayLayout], block: int, arrays: Mapping[str, NDArray[Any]]
    ) -> Leaves:
        """Write one chunk of every array given, each where it belongs, and note that it is finished."""
        leaves = {
            name: zarr.write_chunk(self.data, name, layouts[name], block, arrays[name]) for name in arrays
        }
        self.record(block, leaves)
        return leaves

    def record(self, block: int, leaves: Leaves) -> None:
        """Note that all chunks of a block are written and checked."""
        write_note(self.folder / "blocks" / f"{block}.json", leaves)

    def intact(self, layouts: Mapping[str, ArrayLayout], block: int, leaves: Leaves) -> bool:
        """Whether a block noted as finished is really there (a power cut may have lost its bytes)."""
        try:
            for name, leaf in leaves.items():
                zarr.read_chunk(self.data, name, layouts[name], block, leaf)
        except (UserError, KeyError):
            return False
        return True

    def write_arrays(
        self, layouts: Mapping[str, ArrayLayout], values: Mapping[str, NDArray[Any]]
    ) -> dict[str, list[str]]:
        """Write whole arrays; their leaves by name."""
        return zarr.write_arrays(self.data, layouts, values)

    def read(self, name: str, array: ArrayLayout) -> NDArray[Any]:
        """A whole array, all of it written."""
        return zarr.read_array(self.data, name, array)

    def size(self) -> int:
        """Bytes of all files of the arrays."""
        return sum(file.stat().st_size for file in self.data.rglob("*") if file.is_file())

    def require_space(self, nbytes: int) -> None:
        """Raises UserError (code 1) when arrays of ``nbytes``, less what is here of them, find no room."""
        missing, free = nbytes - self.size(), shutil.disk_usage(self.base).free
        if free < missing:
            raise UserError(
                f"expected {missing:,} bytes free under {self.base}, found {free:,}; "
                "free some, or choose another --root",
                FAILED,
            )

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest and the marker, and move the dataset into place; a replaced one goes last."""
        manifests.write(self.data, manifest)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self.target.exists():
            os.replace(self.target, self._replaced)
        os.replace(self.folder / "dataset", self.target)
        sync(self.target.parent)
        self.discard()

    def recover(self) -> None:
        """Undo a commit that stopped between its renames, or clear up after one that stopped at its end."""
        if self._replaced.exists() and not self.target.exists():
            os.replace(self._replaced, self.target)
        if not self.data.exists():
            self.discard()


def shards_folder(dataset_id: str, base: Path) -> Path:
    """Where the shards of an id lie under a root."""
    return base / ".dom2data" / "shards" / dataset_id


@contextmanager
def open_stage(dataset_id: str, base: Path, shard: str = "") -> Iterator[Stage]:
    """The stage of an id, or of a shard of it, under its lock.

    Raises UserError (code 1) when another process holds the lock, the root cannot be written, or its disk is
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
    """Turn "no space left" into a UserError (code 1) that says what is kept."""
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
    """What ``write_note`` wrote; None where there is nothing, or what a power cut has left of it."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_note(path: Path, value: Any) -> None:
    """Write JSON so that the file is either whole or absent."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, sort_keys=True))
