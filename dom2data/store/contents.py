"""Checks of a dataset from elsewhere, before a single byte of it is written here.

The manifest determines a dataset's files: the group's metadata, and the metadata and chunks of every array.
So names from elsewhere are only looked up, never used for writing, and no other files can be written.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from dom2data import ids
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.spec import EnvSpec
from dom2data.store import manifest as manifests
from dom2data.store import schema
from dom2data.store.layout import ArrayLayout, chunk_file, layout

LARGEST = 1 << 31
"""limit for the bytes of a decoded chunk (Blosc's own limit), and for the rows of a chunk"""
EXPANSION = 1000
"""largest ratio of decoded to stored bytes; recorded data stays below 10, and all zeros is not a dataset"""
SMALL = 1 << 26
"""size in bytes up to which the ratio is not checked; also the limit for a manifest"""
CODECS = ("bytes", "blosc", "crc32c")


class Source(Protocol):
    """The files of one dataset stored elsewhere, by their names below its ``data`` folder."""

    @property
    def where(self) -> str: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def read(self, name: str) -> bytes: ...


def accept(source: Source) -> dict[str, Any]:
    """Check everything about a dataset elsewhere except its values, and return its manifest.

    Raises UserError (code 3) for the first problem.
    """
    manifest = described(source)
    _stored(source, layouts_of(manifest))
    return manifest


def described(source: Source) -> dict[str, Any]:
    """Return the manifest, checked on its own. Raises UserError (code 3) for the first problem."""
    for name in (manifests.MARKER, manifests.FILE):
        if name not in source.sizes:
            refuse(source.where, f"a dataset with the file {name}", "none")
        if source.sizes[name] > SMALL:
            refuse(source.where, f"{name} of at most {SMALL:,} bytes", f"{source.sizes[name]:,}")
    text = source.read(manifests.FILE)
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(source.where, f"JSON in {manifests.FILE}", str(error).split("\n")[0])
    if not isinstance(manifest, dict) or manifest.get("schema") != manifests.SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        refuse(source.where, f"schema {manifests.SCHEMA}", repr(found)[:80])
    if source.read(manifests.MARKER).strip() != manifests.digest(text).encode():
        refuse(source.where, f"the {manifests.FILE} that {manifests.MARKER} was written for", "another")
    if finding := schema.manifest(manifest):
        refuse(source.where, *finding.removeprefix("expected ").split(", found ", 1))
    _consistent(source.where, manifest)
    return manifest


def files(layouts: Mapping[str, ArrayLayout]) -> list[str]:
    """Return a dataset's file names below ``data``, without manifest, marker and Minari's metadata."""
    return ["zarr.json", *(name for array in layouts for name in array_files(array, layouts[array]))]


def array_files(name: str, array: ArrayLayout) -> list[str]:
    """Return the names of an array's metadata and chunk files."""
    return [f"{name}/zarr.json", *(chunk_file(name, array, c) for c in range(array.n_chunks))]


def layouts_of(manifest: Mapping[str, Any]) -> dict[str, ArrayLayout]:
    """Return the layout of every array in a manifest."""
    return {name: ArrayLayout.from_json(entry) for name, entry in manifest["arrays"].items()}


def _consistent(where: str, manifest: dict[str, Any]) -> None:
    """Check the manifest's contents, beyond what ``schema`` checks."""
    try:
        spec = EnvSpec.from_json(manifest["spec"])
        if not 0 < manifest["episodes"] <= manifest["steps"]:
            refuse(where, "steps in episodes", f"{manifest['steps']} in {manifest['episodes']}")
        if ids.full(manifest["id"]) != manifest["id"]:
            refuse(where, "a whole id such as dom2/tag-medium-v0", repr(manifest["id"])[:80])
        layouts = layouts_of(manifest)
        _as_laid_out(where, spec, manifest, layouts)
        if manifests.hash_of_leaves(manifest) != manifest["hash"]:
            refuse(where, "the content hash of its leaves", manifest["hash"][:16])
        manifests.minari_metadata(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        refuse(where, f"a manifest of schema {manifests.SCHEMA}", f"{type(error).__name__} {error}"[:80])
    except UserError as error:
        raise UserError(error.message, CHECK_FAILED) from error


def _as_laid_out(
    where: str, spec: EnvSpec, manifest: Mapping[str, Any], layouts: Mapping[str, ArrayLayout]
) -> None:
    """Check that arrays agree with ``layout``; additional ones must hold one number per episode."""
    block = layouts["returns"].chunk_rows
    if not 0 < block < LARGEST:
        refuse(where, "chunks of whole rows", str(block))
    expected = layout(spec, manifest["episodes"], manifest["steps"], block)
    for name, array in layouts.items():
        if not re.fullmatch(r"[a-z][a-z_]{0,63}", name):
            refuse(where, "arrays with plain names", repr(name)[:80])
        rule = expected.get(name) or dataclasses.replace(expected["source"], dtype=array.dtype)
        if array != rule:
            refuse(where, f"array {name!r} as {rule}", f"{array}"[:120])
        if array.nbytes / array.n_chunks > LARGEST:
            refuse(where, f"chunks of {name!r} of at most {LARGEST:,} bytes", f"{array}"[:120])
    missing = [name for name in expected if name not in layouts]
    if missing:
        refuse(where, f"the array {missing[0]!r}", "none")


def _stored(source: Source, layouts: Mapping[str, ArrayLayout]) -> None:
    """Check that the manifest's files exist, and that their decoded size is plausible."""
    chunks = sum(array.n_chunks for array in layouts.values())
    if chunks > len(source.sizes):
        refuse(source.where, f"{chunks:,} chunks", f"{len(source.sizes):,} files")
    names = files(layouts)
    missing = [name for name in names if name not in source.sizes]
    if missing:
        refuse(source.where, f"the file {missing[0]}", "none")
    stored = sum(source.sizes[name] for name in names)
    decoded = sum(array.nbytes for array in layouts.values())
    if decoded > max(SMALL, EXPANSION * stored):
        refuse(source.where, f"at most {EXPANSION} times {stored:,} bytes", f"{decoded:,} declared")
    _group(source)
    for name, array in layouts.items():
        _metadata(source, name, array)


def _group(source: Source) -> None:
    found = _json(source, "zarr.json")
    if (found.get("zarr_format"), found.get("node_type")) != (3, "group"):
        refuse(source.where, "a Zarr v3 group", "something else")


def _metadata(source: Source, name: str, array: ArrayLayout) -> None:
    """Check that an array's own metadata agrees with the manifest and names only known codecs."""
    found = _json(source, f"{name}/zarr.json")
    try:
        codecs = [codec["name"] for codec in found["codecs"]]
        chunk = found["chunk_grid"]["configuration"]["chunk_shape"]
        says = (found["zarr_format"], found["node_type"], found["data_type"], found["shape"], chunk)
        encoding = found["chunk_key_encoding"]
        plain = (
            encoding["name"] == "default" and encoding.get("configuration", {}).get("separator", "/") == "/"
        )
    except (KeyError, TypeError, AttributeError) as error:
        refuse(source.where, f"the Zarr metadata of {name!r}", f"none: {error}"[:80])
    rule = (3, "array", array.dtype, list(array.shape), list(array.chunk_shape))
    if says != rule:
        refuse(source.where, f"array {name!r} as {rule}", f"{says}"[:120])
    if not set(codecs) <= set(CODECS) or not plain or found.get("storage_transformers"):
        refuse(source.where, f"the codecs {', '.join(CODECS)} in {name!r}", ", ".join(map(str, codecs))[:80])


def _json(source: Source, name: str) -> dict[str, Any]:
    if source.sizes[name] > 1 << 20:
        refuse(source.where, f"{name} of at most {1 << 20:,} bytes", f"{source.sizes[name]:,}")
    try:
        found = json.loads(source.read(name))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        refuse(source.where, f"JSON in {name}", "something else")
    return found


def refuse(where: str, expected: str, found: str) -> NoReturn:
    """Raise the UserError (code 3) for something that is not a valid dataset."""
    message = f"{where}: expected {expected}, found {found}; ask whoever made it, nothing was written"
    raise UserError(message, CHECK_FAILED)
