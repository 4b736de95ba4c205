"""Is a JSON document what this project writes? The first thing that is not, as a sentence; values are checked
by ``verify``. A file from elsewhere may say anything, and every later line relies on this."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dom2data.spec import EnvSpec

Check = Callable[[Any], bool]
_LARGEST = 2**31  # agents, sizes, a horizon: far more than any real one, small enough to multiply


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(of: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _maybe(of: Check) -> Check:
    return lambda value: value is None or of(value)


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
    "shape": (_list(_count), "sizes"),
    "chunk_rows": (_count, "a size"),
    "leaves": (_list(_text), "hashes"),
    "hash": (_text, "a hash"),
}
_MANIFEST: dict[str, tuple[Check, str]] = {
    "id": (_text, "an id"),
    "env": (_text, "a name"),
    "quality": (_maybe(_text), "a name or null"),
    "steps": (_count, "a count"),
    "episodes": (_count, "a count"),
    "returns": (_object, "an object"),
    "references": (_object, "an object"),
    "recipe": (_maybe(_object), "an object or null"),
    "sources": (_list(_text), "names"),
    "policies": (_object, "an object"),
    "parents": (_list(_object), "objects"),
    "arrays": (_object, "an object"),
    "hash": (_text, "a hash"),
    "size_bytes": (_count, "a count"),
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
    """What is wrong with the JSON of an ``EnvSpec``."""
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
    """What is wrong with the JSON of a manifest: its keys and their types, the spec's, and the arrays'."""
    finding = _fields("the manifest", value, _MANIFEST) or spec(value.get("spec"))
    if finding:
        return finding
    for name, entry in value["arrays"].items():
        plain = name.isidentifier() and name.isascii()  # it becomes the name of a folder
        finding = _fields(f"array {name!r}", entry, _ARRAY) if plain else f"expected a name, found {name!r}"
        if finding:
            return finding
        if not entry["shape"] or len(entry["leaves"]) != math.ceil(entry["shape"][0] / entry["chunk_rows"]):
            return f"expected a hash per chunk of {name!r}, found {len(entry['leaves'])}"
    return _returns(value["returns"], EnvSpec.from_json(value["spec"]).agent_names)


def _returns(value: dict[str, Any], agents: tuple[str, ...]) -> str | None:
    def summary(found: Any) -> bool:
        is_summary = isinstance(found, dict) and all(_number(found.get(key)) for key in ("mean", "std"))
        return (
            is_summary
            and isinstance(found.get("quantiles"), dict)
            and all(map(_number, found["quantiles"].values()))
        )

    per_agent = value.get("agents")
    fits = summary(value.get("team")) and isinstance(per_agent, dict)
    if not fits or set(per_agent or ()) != set(agents) or not all(map(summary, (per_agent or {}).values())):
        return "expected 'returns' to summarise those of the team and of every agent, found otherwise"
    return None
