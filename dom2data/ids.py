"""Dataset ids and their folders: ``dom2/tag-medium-v0`` is in ``<root>/dom2/tag-medium-v0/data``.

The id format and the default root are Minari's, so ``minari list local`` shows the same datasets. Names that
begin with a dot are hidden from both; unfinished work is kept under ``<root>/.dom2data``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dom2data.errors import UserError

NAMESPACE = "dom2"
_ID = re.compile(r"(?:(?P<space>[-_\w]+(?:/[-_\w]+)*)/)?(?P<name>[-_\w]+?)(?:-v(?P<version>\d+))?", re.ASCII)


def place(path: str | os.PathLike[str] | None = None) -> Path | str:
    """Return the root: ``path`` if given, else ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``.

    A folder is returned as an absolute path and not created, a URL such as ``s3://bucket/folder`` as a str.
    """
    chosen = path or os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    return url(chosen) or Path(chosen).expanduser().absolute()


def root(path: str | os.PathLike[str] | None = None) -> Path:
    """Like ``place``, but only for folders. Raises UserError (code 2) for a URL."""
    found = place(path)
    if isinstance(found, str):
        raise UserError(
            f"expected a folder to work in, found the URL {found}; make the dataset in a folder, "
            f"then `dom2data push ID {found}`"
        )
    return found


def url(path: str | os.PathLike[str]) -> str | None:
    """Return ``path`` if it is a URL such as ``s3://...``; None for a folder.

    A ``Path`` made from a URL has lost a slash, which is restored.
    """
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", os.fspath(path))
    if match is None or (match[2] == "/" and isinstance(path, str)):
        return None
    lead = "/" if match[1] in ("file", "local") else ""
    return f"{match[1]}://{lead}{match[3]}"


def split(name: str) -> tuple[str, str, int | None]:
    """Split an id into (namespace, name, version or None). Raises UserError for an invalid id."""
    match = _ID.fullmatch(name)
    if match is None or (match["space"] and len(match["space"]) < 2):
        raise UserError(f"expected an id such as dom2/tag-medium-v0, found {name!r}; see `dom2data list`")
    for part in (match["space"] or "").split("/"):
        if part == "data" or re.search(r"-v\d+$", part):  # would be inside another dataset, and not be found
            raise UserError(f"expected a namespace without {part!r}, found {name!r}; choose another")
    version = match["version"]
    return match["space"] or NAMESPACE, match["name"], None if version is None else int(version)


def full(name: str) -> str:
    """Return the full id with namespace and version; the default version is ``-v0``."""
    space, short, version = split(name)
    return f"{space}/{short}-v{version or 0}"


def stands_for(name: str, dataset_id: str) -> bool:
    """Whether ``name`` is the id or short for it; a name without version stands for any version."""
    (*wanted, version), (*found, its) = split(name), split(dataset_id)
    return wanted == found and version in (None, its)


def directory(dataset_id: str, base: Path) -> Path:
    """Return the ``data`` directory of a full id."""
    return base / dataset_id / "data"


def existing(base: Path) -> Iterator[str]:
    """Yield every id under ``base`` with a manifest or a completion marker, complete or not, in name order.

    Symbolic links are followed, so that a dataset may be on another disk, except to a folder already seen,
    perhaps a parent.
    """
    seen = set()
    for folder, children, _ in os.walk(base, followlinks=True):
        if "data" in children and _may_be_dataset(Path(folder, "data")):
            children.clear()
            yield Path(folder).relative_to(base).as_posix()
        elif (real := os.path.realpath(folder)) in seen:
            children.clear()
        else:
            seen.add(real)
            children[:] = sorted(child for child in children if not child.startswith("."))


def _may_be_dataset(data: Path) -> bool:
    try:
        return (data / "manifest.json").exists() or (data / "COMPLETE").exists()
    except OSError:  # not readable; opening it will report that
        return True


def resolve(name: str, base: Path) -> str:
    """Return the full id for ``name``; without a version, the newest one.

    Raises UserError (code 2) when no dataset has this name.
    """
    space, short, version = split(name)
    versions = {} if version is not None else _versions(base / space, short)
    if version is not None and directory(f"{space}/{short}-v{version}", base).is_dir():
        return f"{space}/{short}-v{version}"
    if versions:
        return f"{space}/{versions[max(versions)]}"
    known = list(existing(base))
    near = difflib.get_close_matches(f"{space}/{short}-v{version or 0}", known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "see `dom2data list`"
    raise UserError(f"expected a dataset under {base}, found no {space}/{short}; {hint}")


def _versions(folder: Path, short: str) -> dict[int, str]:
    pattern = re.compile(re.escape(short) + r"-v(\d+)")
    found = {}
    for child in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(child.name)
        if match and (child / "data").is_dir():
            found[int(match[1])] = child.name
    return found
