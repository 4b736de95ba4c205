"""The sampler's tables, decoded once into memory-mapped files: for datasets larger than memory.

In the cache folder, ``<content hash>/`` contains folders of plain little-endian arrays: ``tables`` has the
rows, ``weights-<digest>`` and ``returns-<gamma>`` what depends on weights and discount. Each folder is
written under a temporary name and then renamed, with a note of hash and sizes, so leftovers of a killed
process are never read. The folders can be deleted at any time; they are then rebuilt.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dom2data import ids, memory, tables
from dom2data.dataset import Dataset, Int64
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.new_file import sync
from dom2data.spec import Progress, quiet
from dom2data.store.manifest import digest, hash_of_leaves

VERSION = 1
"""of the files' contents; files of another version are rebuilt"""
NOTE = "note.json"
POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ, for which Python has no constant"""
SPARE = 64 << 20
"""bytes to leave free on the disk"""


@dataclass(frozen=True)
class Rows:
    """Shape and dtype of the array in a file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for the caches of the datasets under a root.

    ``$DOM2DATA_CACHE``, else a hidden folder in the root, else (for a URL) ``~/.cache/dom2data``.
    """
    if chosen := os.environ.get("DOM2DATA_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = ids.place(root)
    if isinstance(base, Path):
        return base / ".dom2data" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dom2data"


def mapped(
    dataset: Dataset, caches: Path, progress: Progress = quiet, weights: Int64 | None = None
) -> tables.Tables:
    """Return the tables of a dataset as memory-mapped files below ``caches``, built if missing.

    They are built chunk by chunk, each checked against its hash. Only a few numbers per episode stay in
    memory, plus what the system's page cache keeps. Whether the files fit there entirely is judged by their
    sizes, including a table for these ``weights`` [episodes] (None: all 1). Raises UserError: code 3 for a
    damaged dataset, 1 when it cannot be reached or the disk is full.
    """
    _require_own_hash(dataset)
    spec, steps, rows = dataset.spec, len(dataset), len(dataset) + dataset.n_episodes
    number = np.dtype(tables.index_type(dataset)).newbyteorder("<").str
    files = {
        "observations": Rows((rows * spec.n_agents, spec.obs_dim), "<f4"),
        "moves": Rows((steps * spec.n_agents, spec.act_dim + 2), "<f4"),
    }
    place = Place(caches / dataset.hash, dataset.hash)
    room = memory.available(anonymous=False)  # before mapping: mapped pages still count as available

    def fit(*files: Rows) -> bool:
        return room is None or sum(each.nbytes for each in files) < room

    def index(weights: Int64) -> dict[str, Rows]:
        transitions = Rows((int((weights * dataset.lengths).sum()),), number)
        return {"steps": transitions, "rows": transitions}

    whole = fit(*files.values(), *index(np.ones(1, np.int64) if weights is None else weights).values())

    def virtual(weights: Int64) -> tuple[Tensor, Tensor]:
        table = index(weights)

        def write(files: Sequence[BinaryIO]) -> None:
            for piece in tables.virtual_rows(dataset, weights):
                for file, values in zip(files, piece, strict=True):
                    file.write(np.ascontiguousarray(values).data)

        name = f"weights-{digest(np.ascontiguousarray(weights).data)[:16]}"
        found, found_rows = place.files(name, table, write, whole or fit(*table.values()))
        return found.tensor, found_rows.tensor

    def to_go(gamma: float) -> Tensor:
        def write(files: Sequence[BinaryIO]) -> None:
            rewards = moves.tensor.view(steps, spec.n_agents, -1)[..., spec.act_dim]
            for first, stop in tables.pieces(dataset.lengths):
                offsets = dataset.offsets[first : stop + 1]
                piece = rewards[int(offsets[0]) : int(offsets[-1])].numpy()
                files[0].write(tables.returns_to_go(piece, offsets - offsets[0], gamma).data)

        returns = Rows((steps, spec.n_agents), "<f4")
        (found,) = place.files(f"returns-{gamma!r}", {"returns": returns}, write, whole or fit(returns))
        return found.tensor

    obs, moves = place.files("tables", files, lambda opened: _decode(dataset, opened, progress), whole)
    return tables.Tables(obs.tensor, moves.tensor, virtual, to_go, None if whole else (obs.file, moves.file))


def _require_own_hash(dataset: Dataset) -> None:
    """Raises UserError (code 3) if the manifest states another dataset's hash: its cache would be used."""
    if hash_of_leaves(dataset.manifest) != dataset.hash:
        raise UserError(
            f"{dataset.id}: expected the content hash of its leaves, found {dataset.hash[:16]}; generate or "
            "fetch it again",
            CHECK_FAILED,
        )


def _decode(dataset: Dataset, files: Sequence[BinaryIO], progress: Progress) -> None:
    """Write ``obs`` and ``moves`` chunk by chunk; at most one chunk of each array is in memory."""
    observations, moves = files
    obs, actions, rewards = (dataset.layout(name) for name in ("observations", "actions", "rewards"))
    if actions.chunk_rows != rewards.chunk_rows:
        raise UserError(
            f"{dataset.id}: expected actions and rewards in chunks of as many rows, found "
            f"{actions.chunk_rows} and {rewards.chunk_rows}; generate or fetch it again",
            CHECK_FAILED,
        )
    chunks = obs.n_chunks + actions.n_chunks
    for chunk in range(obs.n_chunks):
        observations.write(np.ascontiguousarray(dataset.chunk("observations", chunk)).data)
        progress("decoding", chunk + 1, chunks)
    for chunk in range(actions.n_chunks):
        taken, earned = (dataset.chunk(name, chunk) for name in ("actions", "rewards"))
        moves.write(tables.moves_of(dataset, taken, earned, actions.rows(chunk).start).data)
        progress("decoding", obs.n_chunks + chunk + 1, chunks)


class Place:
    """The cache of one dataset."""

    def __init__(self, folder: Path, content_hash: str):
        self.folder, self.hash = folder, content_hash

    def files(
        self,
        name: str,
        files: Mapping[str, Rows],
        write: Callable[[Sequence[BinaryIO]], None],
        fits: bool,
    ) -> list[Mapped]:
        """Return the mapped files of the folder ``name``; ``write`` fills it if it is missing.

        ``fits``: whether the files fit into memory.

        If two processes ask at the same time, one writes and the other waits. Raises UserError (code 1) when
        the disk is full or not writable.
        """
        from filelock import FileLock

        at = self.folder / name
        note = {"version": VERSION, "hash": self.hash, "bytes": {file: r.nbytes for file, r in files.items()}}
        try:
            if not _complete(at, note):
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / f"{name}.lock"):
                    if not _complete(at, note):
                        _make(at, note, write)
        except OSError as error:
            raise UserError(
                f"expected to write the cache {at}, found: {error.strerror}; set DOM2DATA_CACHE to another "
                "folder, or use --data stream",
                FAILED,
            ) from error
        return [Mapped(at / file, rows, fits) for file, rows in files.items()]


def _complete(at: Path, note: Mapping[str, Any]) -> bool:
    """Whether a folder has this note, and files of the noted sizes."""
    try:
        there = json.loads((at / NOTE).read_bytes())
        return there == note and all((at / f).stat().st_size == size for f, size in note["bytes"].items())
    except (OSError, ValueError):
        return False


def _make(at: Path, note: Mapping[str, Any], write: Callable[[Sequence[BinaryIO]], None]) -> None:
    """Write a folder under a temporary name and rename it. The caller must hold its lock."""
    needed, free = sum(note["bytes"].values()), shutil.disk_usage(at.parent).free
    if free < needed + SPARE:
        raise UserError(
            f"expected {needed / 1e9:,.1f} GB of free disk for the cache {at}, found {free / 1e9:,.1f}; set "
            "DOM2DATA_CACHE to a folder on a larger disk, or use --data stream",
            FAILED,
        )
    unfinished = at.with_name(f".{at.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
    unfinished.mkdir()
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context((unfinished / file).open("wb")) for file in note["bytes"]]
            write(opened)
        (unfinished / NOTE).write_text(json.dumps(note))
        if not _complete(unfinished, note):
            raise AssertionError(f"expected files of {note['bytes']} bytes in {unfinished}")
        for file in unfinished.iterdir():
            sync(file)
        sync(unfinished)
        shutil.rmtree(at, ignore_errors=True)  # incomplete, or of another version
        os.replace(unfinished, at)
        sync(at.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


class Mapped:
    """A file mapped as a read-only ``tensor``; ``fits``: whether all of it fits into memory."""

    def __init__(self, file: Path, rows: Rows, fits: bool):
        self.file = file
        with file.open("rb") as opened:
            self._mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if sys.platform == "linux":
            self._advise(fits)
        values = np.frombuffer(self._mapping, rows.dtype).reshape(rows.shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            self.tensor = torch.from_numpy(values)

    def _advise(self, fits: bool) -> None:
        """Read and map everything at once if it fits: page by page takes as long as 10,000 minibatches.

        If it does not fit, switch off read-ahead, which would evict other rows.
        """
        if not fits:
            self._mapping.madvise(mmap.MADV_RANDOM)
            return
        try:
            self._mapping.madvise(POPULATE_READ)
        except OSError:  # before Linux 5.14
            self._mapping.madvise(mmap.MADV_WILLNEED)
