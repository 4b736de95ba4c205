"""A dataset's metadata: ``manifest.json``, the content hash, and the completion marker.

The content hash is a tree over decoded values, so it does not depend on the compressor, the number of
workers or the order of writing. With H = BLAKE2b-256 in hex and J = JSON with sorted keys, no spaces:

* leaf of a chunk = H(its rows as little-endian bytes in C order, without padding)
* hash of an array = H(J({name, dtype, shape, chunk_rows, leaves}))
* content hash = H(J({spec, arrays: {name: hash}}))

The marker ``COMPLETE`` is written last and holds H(manifest.json): a directory without it is not a dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.new_file import sync
from dom2data.spec import EnvSpec
from dom2data.store import minari, schema
from dom2data.store.layout import ArrayLayout

SCHEMA = "dom2data/2"
MARKER = "COMPLETE"
FILE = "manifest.json"


def digest(value: Any) -> str:
    """BLAKE2b-256 of a bytes-like object, in hex."""
    return hashlib.blake2b(value, digest_size=32).hexdigest()


def canonical(value: Any) -> bytes:
    """Encode as JSON with sorted keys and no spaces, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def leaves(array: ArrayLayout, values: NDArray[Any]) -> list[str]:
    """Return the leaf hashes (one per chunk) of an array in memory."""
    values = np.ascontiguousarray(values)
    return [digest(values[array.rows(chunk)].data) for chunk in range(array.n_chunks)]


def array_hash(name: str, array: ArrayLayout, leaves: Sequence[str]) -> str:
    """Return the hash of an array's name, layout and leaves (its chunks' hashes)."""
    return digest(canonical({"name": name, **array.to_json(), "leaves": list(leaves)}))


def array_entries(layouts: Mapping[str, ArrayLayout], leaves: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the manifest's ``arrays``: layout, leaves and hash of each array."""
    return {
        name: array.to_json() | {"leaves": list(leaves[name]), "hash": array_hash(name, array, leaves[name])}
        for name, array in layouts.items()
    }


def content_hash(spec: EnvSpec, arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the hash that two datasets share iff they hold the same values from the same environment."""
    hashes = {name: entry["hash"] for name, entry in arrays.items()}
    return digest(canonical({"spec": spec.to_json(), "arrays": hashes}))


def hash_of_leaves(manifest: Mapping[str, Any]) -> str:
    """Compute the content hash from a manifest's leaves; the hash that it states may be wrong."""
    arrays = manifest["arrays"]
    layouts = {name: ArrayLayout.from_json(entry) for name, entry in arrays.items()}
    entries = array_entries(layouts, {name: entry["leaves"] for name, entry in arrays.items()})
    return content_hash(EnvSpec.from_json(manifest["spec"]), entries)


def write(data: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest and Minari's metadata, flush them and the folders to disk, then write the marker.

    Their writers have already flushed the chunks, in parallel: a large dataset has too many to flush here.
    """
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()
    if finding := schema.manifest(json.loads(text)):  # it may derive from untrusted files
        raise UserError(f"{manifest['id']}: {finding}; nothing was written", CHECK_FAILED)
    (data / FILE).write_bytes(text)
    (data / minari.FILE).write_text(json.dumps(minari_metadata(manifest), indent=1))
    for folder in (data, *(child for child in data.iterdir() if child.is_dir())):
        for path in folder.iterdir():
            sync(path)  # metadata, and the folders of chunks
        sync(folder)
    (data / MARKER).write_text(digest(text) + "\n")
    sync(data / MARKER)
    sync(data)


def minari_metadata(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``metadata.json`` with which Minari lists a dataset and, with this package, can open it."""
    return minari.metadata(manifest, "zarr", manifest["id"], manifest["size_bytes"])


def read(data: Path) -> dict[str, Any]:
    """Read the manifest of a complete dataset.

    Raises UserError: code 2 when the folder cannot be read, 3 when the marker is missing or belongs to
    another manifest, the schema is another one, or a value has the wrong type.
    """
    try:
        complete = (data / MARKER).is_file()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{data}: expected a folder that can be read, found {reason}; permit it") from error
    if not complete and (other := minari.other(data)):
        raise UserError(
            f"{data}: expected a dataset of dom2data, found one of Minari in {other}; "
            f"`dom2data import {data.parent} --from minari` makes one of it",
            CHECK_FAILED,
        )
    if not complete:
        raise _refused(data, f"the marker {MARKER}", "none (writing it never finished)")
    try:
        text = (data / FILE).read_bytes()
        manifest = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(data, f"a readable {FILE}", str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise _refused(data, f"schema {SCHEMA}", repr(found))
    if marker(data) != digest(text):
        raise _refused(data, f"the {FILE} that {MARKER} was written for", "a different one")
    finding = schema.manifest(manifest)  # it may come from anyone
    if finding:
        raise UserError(f"{data}: {finding}; generate or fetch it again", CHECK_FAILED)
    return manifest


def require_stored(data: Path, name: str, array: ArrayLayout) -> None:
    """Raises UserError (code 3) if an array's files are too small for it; call this before allocating it."""
    if finding := schema.stored(data / name, array):
        raise UserError(f"{data}: {finding}; generate or fetch it again", CHECK_FAILED)


def require_named(manifest: Mapping[str, Any], dataset_id: str, where: str) -> None:
    """Raises UserError (code 3) if a dataset's folder does not match its id: copying it by id would copy
    another dataset."""
    if manifest["id"] != dataset_id:
        raise UserError(
            f"{where}: expected {dataset_id}, found {manifest['id']} in a folder that was renamed; "
            "give it its name back",
            CHECK_FAILED,
        )


def marker(data: Path) -> str:
    """Return the current completion marker; if it differs from before, the dataset has been replaced."""
    file = data / MARKER
    return file.read_text().strip() if file.is_file() else ""


@contextmanager
def unchanged(data: Path, marked: str) -> Iterator[None]:
    """Raises UserError (code 1) if the marker of ``data`` is not ``marked`` at the end of the block: then the
    dataset was replaced, which explains any other error in the block."""
    try:
        yield
    finally:
        if marker(data) != marked:
            raise UserError(f"expected {data} as it was opened, found it replaced; start again", FAILED)


def _refused(data: Path, expected: str, found: str) -> UserError:
    return UserError(f"{data}: expected {expected}, found {found}; generate or fetch it again", CHECK_FAILED)


def settle(chunk: Path) -> None:
    """Wait until a chunk is on disk, with the folders below ``c`` that may have been created for it."""
    sync(chunk)
    for folder in chunk.parents:
        if folder.name == "c":
            return
        sync(folder)
