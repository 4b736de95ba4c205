"""Datasets at a URL that fsspec supports (``s3://``, ``memory://``, ``file://``, ...).

Files and names are the same as in a folder. Such a store has neither rename nor lock. The marker, uploaded
last, is the commit. The note ``UPLOADING``, uploaded first, says to which dataset unfinished files belong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from dom2data import ids
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.store import contents
from dom2data.store import manifest as manifests

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from dom2data.spec import Progress

UPLOADING = "UPLOADING"
OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oss", "hf", "memory"}
"""protocols without folders: creating one costs a request, and may even create a bucket"""


class Place:
    """A URL that holds datasets. Raises UserError (code 2) if its protocol is not supported here."""

    def __init__(self, url: str):
        import fsspec

        self.url = url.rstrip("/")
        try:
            fs, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            package = (error.name or "its package") if error.name else str(error).split(";")[0]
            raise UserError(
                f"expected what {url} needs, found it missing ({package}); pip install 'dom2[s3]' for s3"
            ) from error
        except ValueError as error:
            raise UserError(f"expected a URL such as s3://bucket/folder, found {url}: {error}") from error
        self.fs: AbstractFileSystem = fs
        self.path: str = path.rstrip("/")

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn any exception of the filesystem into a UserError (code 1)."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each filesystem has its own exceptions
            reason = (str(error) or type(error).__name__).split("\n")[0]
            raise UserError(
                f"expected to reach {self.url}, found: {reason}; check address, credentials and network, "
                "the same command continues",
                FAILED,
            ) from error

    def folder(self, dataset_id: str) -> str:
        return f"{self.path}/{dataset_id}/data"

    def existing(self) -> list[str]:
        """Return every id with a completion marker, in name order."""
        with self.reached():
            self.fs.invalidate_cache()
            try:
                names = self.fs.find(self.path)
            except FileNotFoundError:
                names = []
        start, end = len(self.path) + 1 if self.path else 0, f"/data/{manifests.MARKER}"
        found = (name[start:].removesuffix(end) for name in names if name.endswith(end))
        return sorted(
            dataset_id for dataset_id in found if not any(p[:1] == "." for p in dataset_id.split("/"))
        )

    def source(self, dataset_id: str) -> Files:
        """Return the files of one dataset."""
        folder = self.folder(dataset_id)
        with self.reached():
            self.fs.invalidate_cache()
            try:
                details = self.fs.find(folder, detail=True)
            except FileNotFoundError:
                details = {}
        sizes = {name[len(folder) + 1 :]: int(about["size"] or 0) for name, about in details.items()}
        return Files(self, dataset_id, sizes)

    def resolve(self, name: str) -> str:
        """Return the full id for ``name``. Raises UserError (code 2) when no dataset has this name."""
        space, short, _ = ids.split(name)
        versions = {}
        for known in self.existing():
            try:
                version = ids.split(known)[2]
            except UserError:  # a copy of a dataset under a name that is not a valid id
                continue
            if version is not None and ids.stands_for(name, known):
                versions[version] = known
        if not versions:
            raise UserError(
                f"expected a dataset under {self.url}, found no {space}/{short}; "
                f"see `dom2data list --root {self.url}`"
            )
        return versions[max(versions)]

    def named(self, name: str) -> tuple[Files, dict[str, Any]]:
        """What lies there of the dataset that ``name`` is short for, and its manifest.

        Raises UserError: code 2 when there is none of that name, 3 when anything that can be seen without its
        values is not right, or its name is another than its own.
        """
        source = self.source(self.resolve(name))
        manifest = contents.accept(source)
        manifests.require_named(manifest, source.dataset_id, source.where)
        return source, manifest


class Files:
    """The files of a dataset at a URL (``contents.Source``)."""

    def __init__(self, place: Place, dataset_id: str, sizes: Mapping[str, int]):
        self.place, self.dataset_id, self.sizes = place, dataset_id, dict(sizes)
        self.where = f"{place.url}/{dataset_id}"
        self.complete = manifests.MARKER in self.sizes

    def read(self, name: str) -> bytes:
        with self.place.reached():
            return self.place.fs.cat_file(f"{self.place.folder(self.dataset_id)}/{name}")


def open(
    name: str, url: str
) -> tuple[dict[str, Any], Callable[[str], NDArray[Any]], Callable[[str, int], NDArray[Any]]]:
    """Return the arguments for a ``Dataset`` at a URL; chunks are fetched on demand and not kept on disk.

    Raises UserError like ``dataset.open``, and with code 1 when the URL cannot be reached.
    """
    source, manifest = Place(url).named(name)
    layouts = contents.layouts_of(manifest)

    @contextmanager
    def fetched(names: list[str]) -> Iterator[Path]:
        """Yield a temporary folder with some of the files."""
        with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
            fetch(source, names, Path(folder))
            try:
                yield Path(folder)
            except UserError as error:
                raise UserError(error.message.replace(folder, source.where), error.code) from error

    def load(array: str) -> Any:
        from dom2data.store import zarr

        with fetched(contents.array_files(array, layouts[array])) as folder:
            return zarr.read_array(folder, array, layouts[array], manifest["arrays"][array]["leaves"])

    def load_chunk(array: str, number: int) -> Any:
        from dom2data.store import zarr

        layout, leaf = layouts[array], manifest["arrays"][array]["leaves"][number]
        with fetched([f"{array}/zarr.json", contents.chunk_file(array, layout, number)]) as folder:
            return zarr.read_chunk(folder, array, layout, number, leaf)

    return manifest, load, load_chunk


def fetch(source: Files, names: list[str], folder: Path) -> None:
    """Download files, in parallel if the filesystem can; names come from a manifest's layout."""
    there = source.place.folder(source.dataset_id)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with source.place.reached():
        source.place.fs.get([f"{there}/{name}" for name in names], [str(folder / name) for name in names])


def manifests_of(url: str) -> tuple[list[dict[str, Any]], list[UserError]]:
    """Return the manifests of the datasets under a URL, and the errors of the others."""
    place, found, refused = Place(url), [], []
    for dataset_id in place.existing():
        try:
            found.append(contents.described(place.source(dataset_id)))
        except UserError as error:
            if error.code != CHECK_FAILED:
                raise
            refused.append(error)
    return found, refused


def upload(
    here: contents.Source, manifest: Mapping[str, Any], url: str, force: bool, progress: Progress
) -> None:
    """Upload a dataset's files: the note ``UPLOADING`` first, the marker last.

    After an interruption, the same call sends what is missing. Nothing is sent if a dataset with the same
    recipe and content, even from another time, exists there. A dataset that has lost a file is sent again;
    ``force`` replaces any.
    Raises UserError: code 2 when another dataset with this id exists there and ``force`` is false, 1 when
    the URL cannot be reached or has lost something.
    """
    place = Place(url)
    source = place.source(manifest["id"])
    there, mine = place.folder(manifest["id"]), here.read(manifests.MARKER)
    if source.complete and not force:
        ours = source.read(manifests.MARKER) == mine
        if (ours and _whole(source, here)) or (not ours and _same(source, manifest)):
            return
        if not ours:
            raise UserError(f"expected a new id, found {source.where}; --force replaces it")
    begun = UPLOADING in source.sizes and source.read(UPLOADING) == mine
    with place.reached():
        if not begun:
            # Remove the marker first: from here on there is no dataset until the new marker is written.
            for name in sorted(source.sizes, key=lambda name: name != manifests.MARKER):
                place.fs.rm_file(f"{there}/{name}")
            write(place, mine, f"{there}/{UPLOADING}")
        kept = source.sizes if begun else {}
        sizes = {name: size for name, size in here.sizes.items() if name != manifests.MARKER}
        for done, (name, size) in enumerate(sizes.items()):
            progress("uploading", done, len(here.sizes))
            if kept.get(name) != size:
                _put(place, here, name, there)
        _all_there(place, manifest["id"], sizes)
        _put(place, here, manifests.MARKER, there)
        progress("uploading", len(here.sizes), len(here.sizes))
        place.fs.rm_file(f"{there}/{UPLOADING}")


def accepted(source: Files) -> dict[str, Any] | None:
    """Return the manifest of a dataset at a URL; None if any check fails."""
    try:
        return contents.accept(source)
    except UserError as error:
        if error.code != CHECK_FAILED:
            raise
        return None


def _whole(source: Files, here: contents.Source) -> bool:
    return all(source.sizes.get(name) == size for name, size in here.sizes.items())


def _same(source: Files, manifest: Mapping[str, Any]) -> bool:
    there = accepted(source)
    return there is not None and all(there[key] == manifest[key] for key in ("hash", "recipe"))


def _put(place: Place, here: contents.Source, name: str, folder: str) -> None:
    write(place, here.read(name), f"{folder}/{name}")


def write(place: Place, content: bytes, target: str) -> None:
    """Write one object, creating its folders if the protocol has folders."""
    if place.url.partition("://")[0] not in OBJECTS:
        place.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
    place.fs.pipe_file(target, content)


def _all_there(place: Place, dataset_id: str, sizes: Mapping[str, int]) -> None:
    """Raises UserError (code 1), before the commit, if a sent file is missing or has another size."""
    found = place.source(dataset_id).sizes
    for name, size in sizes.items():
        if found.get(name) != size:
            raise UserError(
                f"{place.url}/{dataset_id}: expected {size:,} bytes in {name}, "
                f"found {found.get(name, 'none')}; the same command sends it again",
                FAILED,
            )
