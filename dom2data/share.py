"""Share datasets: as one zip file, or to and from a URL.

``pack`` keeps the file layout of a root, so plain ``unzip`` inside a root also gives a dataset. Whatever
arrives by ``unpack`` or ``pull`` is checked twice: names, sizes, layouts and hashes in the manifest before
anything is written, and every value (``verify``) before the stage becomes a dataset.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from dom2data import dataset, ids, new_file
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.spec import Progress, quiet
from dom2data.store import contents, remote, zarr
from dom2data.store import manifest as manifests
from dom2data.store.contents import Source, refuse
from dom2data.store.layout import ArrayLayout
from dom2data.store.lock import held
from dom2data.store.stage import Stage, open_stage
from dom2data.verify import verify

_DATE = (1980, 1, 1, 0, 0, 0)  # the zip format's earliest date, so that equal datasets give equal bytes


def pack(found: Dataset, base: Path, file: Path, *, force: bool = False, progress: Progress = quiet) -> Path:
    """Write the dataset as a zip file, uncompressed because chunks hardly compress. Equal datasets give equal
    bytes.

    Raises UserError: code 2 when ``file`` exists (and not ``force``) or its folder does not, 3 when the
    dataset does not verify, 1 when it is replaced meanwhile.
    """
    if file.suffix.lower() != ".zip":
        raise UserError(f"expected a file ending in .zip, found {file}")
    new_file.require(file, force)
    verify(found)
    opened = Opened(found, base)
    with (
        new_file.replacing(file) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for done, name in enumerate(opened.sizes):
            progress("packing", done, len(opened.sizes))
            entry = zipfile.ZipInfo(f"{found.id}/data/{name}", _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, opened.read(name))
        progress("packing", len(opened.sizes), len(opened.sizes))
    return file


def complete(manifest: Mapping[str, Any]) -> list[str]:
    """Return every file of a dataset below ``data`` in the order of a commit: the marker comes last."""
    return [
        *contents.files(contents.layouts_of(manifest)),
        "metadata.json",
        manifests.FILE,
        manifests.MARKER,
    ]


class Opened:
    """The files of an opened dataset under a root, in the order of a commit (``contents.Source``).

    They are read by path. Raises UserError (code 1) if another dataset has been moved to that path since
    opening.
    """

    def __init__(self, found: Dataset, base: Path):
        self._data = ids.directory(found.id, base)
        self.where = str(self._data)
        text = (self._data / manifests.FILE).read_bytes()
        self._marked = manifests.digest(text) if json.loads(text) == found.manifest else ""
        self._commit = {manifests.FILE: text, manifests.MARKER: f"{self._marked}\n".encode()}
        with manifests.unchanged(self._data, self._marked):
            self.sizes = {name: (self._data / name).stat().st_size for name in complete(found.manifest)}
        self.sizes |= {name: len(content) for name, content in self._commit.items()}

    def read(self, name: str) -> bytes:
        if name in self._commit:
            return self._commit[name]
        with manifests.unchanged(self._data, self._marked):
            return (self._data / name).read_bytes()


class Archive:
    """The files of the single dataset in a zip file (``contents.Source``)."""

    def __init__(self, archive: zipfile.ZipFile, where: str, size: int):
        self.where, self._archive = where, archive
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            refuse(where, "each name once", "a name twice")
        markers = [name for name in self._entries if name.endswith(f"/data/{manifests.MARKER}")]
        if len(markers) != 1:
            refuse(where, "one dataset, as `dom2data export` writes it", f"{len(markers)}")
        self.prefix = markers[0].removesuffix(manifests.MARKER)
        for name, entry in self._entries.items():
            parts = PurePosixPath(name).parts
            if not name.startswith(self.prefix) or ".." in parts or name.startswith("/") or "\\" in name:
                refuse(where, f"names below {self.prefix}", repr(name)[:80])
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                refuse(where, "a plain zip file", f"{name[:80]!r} encrypted or compressed in a rare way")
        total = sum(entry.file_size for entry in entries)
        if total > max(contents.SMALL, 20 * size):
            refuse(where, f"at most 20 times its {size:,} bytes", f"{total:,} bytes declared")
        self.sizes = {name.removeprefix(self.prefix): e.file_size for name, e in self._entries.items()}

    def read(self, name: str) -> bytes:
        try:
            return self._archive.read(self._entries[self.prefix + name])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            refuse(self.where, f"a readable {name}", str(error)[:80])


def unpack(path: Path, base: Path, force: bool = False, progress: Progress = quiet) -> Dataset:
    """Unpack a dataset written by ``pack`` under ``base``, with the same id and hash.

    Raises UserError: code 2 when the file is missing or the id is taken, 3 when any check fails.
    """
    if not path.is_file():
        raise UserError(f"expected a zip file, found none at {path}")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        refuse(str(path), "a zip file", str(error)[:80])
    with archive:
        source = Archive(archive, str(path), path.stat().st_size)
        manifest = contents.accept(source)
        if source.prefix != f"{manifest['id']}/data/":
            refuse(str(path), f"the folder {manifest['id']}/data", source.prefix[:80])
        return receive(source, manifest, base, force, progress)


def receive(
    source: Source, manifest: dict[str, Any], base: Path, force: bool, progress: Progress = quiet
) -> Dataset:
    """Copy a source that ``contents.accept`` has checked into a stage, verify every value, commit.

    A stage of the same manifest that a killed process left is continued: files of the right size are kept,
    and verification decides at the end.
    """
    recipe = {"operation": "receive", "hash": manifest["hash"], "manifest": _identity(source)}
    names = contents.files(contents.layouts_of(manifest))
    with open_stage(manifest["id"], base) as stage:
        stage.check(recipe, force, "another --root keeps both")  # a received dataset keeps its id
        stage.require_space(sum(source.sizes[name] for name in names))
        stage.begin(recipe, lambda data: None)
        for done, name in enumerate(names):
            progress("copying", done, len(names))
            _copy(source, name, stage.data / name)
        progress("verifying", len(names), len(names))
        _verified(stage, manifest, source.where)
        stage.commit(manifest)
    return dataset.open(manifest["id"], base)


def _identity(source: Source) -> str:
    return source.read(manifests.MARKER).decode(errors="replace").strip()


def _copy(source: Source, name: str, target: Path) -> None:
    if target.is_file() and target.stat().st_size == source.sizes[name]:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_file.replacing(target) as partial:
        partial.write_bytes(source.read(name))
    if "c" in Path(name).parts:
        manifests.settle(target)


def _verified(stage: Stage, manifest: dict[str, Any], where: str) -> None:
    """Discard the stage and raise UserError (code 3) unless every value agrees with the manifest."""

    def load(name: str) -> Any:
        return zarr.read_array(stage.data, name, ArrayLayout.from_json(manifest["arrays"][name]))

    try:
        verify(Dataset(manifest, load))
    except UserError as error:
        stage.discard()
        message = error.message.replace(str(stage.data), where)
        raise UserError(message, CHECK_FAILED) from error
    except MemoryError as error:
        stage.discard()
        raise UserError(
            f"{where}: expected arrays that fit into memory, found too little of it", FAILED
        ) from error


def push(found: Dataset, base: Path, url: str, force: bool = False, progress: Progress = quiet) -> None:
    """Verify a dataset and copy it to a URL, under its id; an interrupted upload is continued.

    Raises UserError: code 2 when another dataset with this id exists there and ``force`` is false, 3 when
    this one does not verify, 1 when the URL cannot be reached or the dataset is replaced meanwhile.
    """
    verify(found)
    remote.upload(Opened(found, base), found.manifest, url, force, progress)


def pull(name: str, url: str, base: Path, force: bool = False, progress: Progress = quiet) -> Dataset:
    """Copy a dataset from a URL to ``base``; it becomes a dataset there once every value has been checked.

    Raises UserError like ``unpack``, and with code 1 when the URL cannot be reached.
    """
    source, manifest = remote.Place(url).named(name)
    return receive(source, manifest, base, force, progress)


def outgoing(url: str) -> Path:
    """Return the hidden local folder, under the user's default root, where datasets for a URL are made."""
    every = Path.home() / ".minari" / "datasets" / ".dom2data" / "outgoing"
    return every / manifests.digest(url.encode())[:16]


@contextmanager
def only_sender(here: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises UserError (code 1) if another process makes datasets for this URL."""
    here.mkdir(parents=True, exist_ok=True)
    otherwise = f"expected to be the only one who fills {here}, found another process; wait for it"
    with held(here / ".lock", otherwise):
        yield


def deliver(dataset_id: str, here: Path, url: str, force: bool, progress: Progress = quiet) -> None:
    """``push`` a dataset, then remove it here; it stays if the upload fails."""
    push(dataset.open(dataset_id, here), here, url, force, progress)
    shutil.rmtree(here / dataset_id)
