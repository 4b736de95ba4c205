"""Check that a JSON document has the form that this project writes, and describe the first problem. A file
from elsewhere may contain anything, and all later code relies on these checks; ``verify`` checks values."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dom2data.stats import QUANTILES
from dom2data.store.layout import ArrayLayout

Check = Callable[[Any], bool]
DEFLATE = 1032
"""Most decoded bytes per deflated byte (RFC 1951: 258 bytes for 2 bits); a larger claim is false."""
_LARGEST = 2**31  # agents, sizes, a horizon: far more than any real one, small enough to multiply


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _hash(value: Any) -> bool:
    """Must be strict: the hash becomes the name of a folder, and a seed."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _float(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return abs(value) <= sys.float_info.max if whole else _float(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST


def _size(value: Any) -> bool:
    """A dataset's size in steps or bytes, which may exceed any memory."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(of: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _maybe(of: Check) -> Check:
    return lambda value: value is None or of(value)


def _references(value: Any) -> bool:
    def scale(at: Any) -> bool:
        ends = [at.get("random"), at.get("expert")] if isinstance(at, dict) else [None]
        return at is None or (all(map(_number, ends)) and ends[0] != ends[1])

    return isinstance(value, dict) and {"published", "own"} <= set(value) and all(map(scale, value.values()))


_SPEC: dict[str, tuple[Check, str]] = {
    "env_id": (_text, "a name"),
    "agent_names": (_list(_text), "names"),
    "obs_dims": (_list(_count), "sizes"),
    "act_dim": (_count, "a size"),
    "act_low": (_number, "a number"),
    "act_high": (_number, "a number"),
    "horizon": (_count, "a number of steps"),
    "reward": (lambda value: value in ("shared", "individual"), "'shared' or 'individual'"),
    "facts": (_object, "an object"),
}
_ARRAY: dict[str, tuple[Check, str]] = {
    "dtype": (lambda value: value in ("bool", "float32", "int64"), "bool, float32 or int64"),
    "shape": (_list(_size), "sizes"),
    "chunk_rows": (_size, "a size"),
    "leaves": (_list(_hash), "hashes of 64 hexadecimal digits"),
    "hash": (_hash, "64 hexadecimal digits"),
}
_PARENT: dict[str, tuple[Check, str]] = {
    "id": (_text, "an id"),
    "hash": (_hash, "64 hexadecimal digits"),
    "episodes": (_count, "a count"),
    "indices_hash": (_hash, "64 hexadecimal digits"),
    "recipe": (_maybe(_object), "an object or null"),
    "parents": (_list(_object), "objects"),
}
_SUMMARY: dict[str, tuple[Check, str]] = {
    "mean": (_float, "a float"),
    "std": (_float, "a float"),
    "quantiles": (_object, "an object"),
}
_MANIFEST: dict[str, tuple[Check, str]] = {
    "id": (_text, "an id"),
    "env": (_text, "a name"),
    "quality": (_maybe(_text), "a name or null"),
    "steps": (_size, "a count"),
    "episodes": (_size, "a count"),
    "returns": (_object, "an object"),
    "references": (_references, "returns that score 0 and 100, or null"),
    "recipe": (_object, "an object"),
    "sources": (_list(_text), "names"),
    "policies": (lambda value: _object(value) and all(map(_object, value.values())), "objects"),
    "parents": (_list(_object), "objects"),
    "arrays": (_object, "an object"),
    "hash": (_hash, "64 hexadecimal digits"),
    "size_bytes": (_size, "a count"),
    "created": (_text, "a date"),
    "wall_s": (_number, "seconds"),
    "versions": (_object, "an object"),
}


def _fields(what: str, value: Any, expected: Mapping[str, tuple[Check, str]]) -> str | None:
    if not isinstance(value, dict):
        return f"expected {what} to be an object, found {_short(value)}"
    for name, (check, kind) in expected.items():
        if name not in value:
            return f"expected {name!r} in {what}, found none"
        if not check(value[name]):
            return f"expected {name!r} in {what} to be {kind}, found {_short(value[name])}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def spec(value: Any) -> str | None:
    """Return what is wrong with the JSON of an ``EnvSpec``, or None."""
    finding = _fields("the spec", value, _SPEC)
    if finding:
        return finding
    if unknown := set(value) - set(_SPEC):
        return f"expected no {min(unknown)!r} in the spec, found one"
    if not value["agent_names"] or len(value["agent_names"]) != len(value["obs_dims"]):
        return f"expected a size per agent, found {value['agent_names']} and {value['obs_dims']}"
    if len(set(value["agent_names"])) != len(value["agent_names"]) or value["act_low"] >= value["act_high"]:
        return "expected different names of agents and act_low below act_high, found others"
    return None


def manifest(value: Any) -> str | None:
    """Return what is wrong with the JSON of a manifest (keys and types, also in its parts), or None."""
    finding = _fields("the manifest", value, _MANIFEST) or spec(value.get("spec"))
    return (
        finding
        or _parents(value["parents"])
        or _arrays(value["arrays"])
        or _returns(value["returns"], value["spec"]["agent_names"])
    )


def _parents(parents: list[Any]) -> str | None:
    for parent in parents:
        finding = _fields("a parent", parent, _PARENT) or _parents(parent["parents"])
        if finding:
            return finding
    return None


def _arrays(arrays: dict[str, Any]) -> str | None:
    for name, entry in arrays.items():
        if not (name.isidentifier() and name.isascii()):  # becomes the name of a folder
            return f"expected plain names of arrays, found {name!r}"
        if finding := _fields(f"array {name!r}", entry, _ARRAY):
            return finding
        chunks = math.ceil(entry["shape"][0] / entry["chunk_rows"]) if entry["shape"] else 0
        if chunks < 1 or len(entry["leaves"]) != chunks:
            return f"expected {chunks} hashes, one per chunk, of array {name!r}, found {len(entry['leaves'])}"
    return None


def _returns(value: dict[str, Any], agents: list[str]) -> str | None:
    per_agent = value.get("agents")
    if not isinstance(per_agent, dict) or set(per_agent) != set(agents):
        return f"expected 'returns' to have every agent, found {_short(per_agent)}"
    quantiles = {str(q) for q in QUANTILES}
    for name, found in {"the team": value.get("team"), **per_agent}.items():
        if finding := _fields(f"the returns of {name}", found, _SUMMARY):
            return finding
        if set(found["quantiles"]) != quantiles or not all(map(_number, found["quantiles"].values())):
            return f"expected the quantiles of the returns of {name}, found {_short(found['quantiles'])}"
    return None


def stored(folder: Path, array: ArrayLayout) -> str | None:
    """Return why the chunk files in ``folder`` cannot hold an array, or None; call it before allocating."""
    files = [folder / array.chunk_key(chunk) for chunk in range(array.n_chunks)]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if array.nbytes > size * DEFLATE:
        return f"expected {array.shape} in {folder.name!r}, found {size:,} bytes"
    return None
