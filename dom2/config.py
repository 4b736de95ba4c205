"""Configuration by frozen dataclasses: documented fields, values parsed from text, unknown keys rejected."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
import types
import typing
from typing import Any

from dom2data.errors import UserError


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config: its type, default and the docstring under it."""

    name: str
    type: Any
    default: Any
    doc: str


_KNOWN: dict[type[Any], tuple[Field, ...]] = {}  # parsing is slow, and a grid asks hundreds of times


def fields(config: type[Any]) -> tuple[Field, ...]:
    """Return a dataclass's fields in order, each with the string literal that follows it as its doc."""
    if config not in _KNOWN:
        types_, docs = typing.get_type_hints(config), _docstrings(config)
        _KNOWN[config] = tuple(
            Field(f.name, types_[f.name], f.default, docs.get(f.name, "")) for f in dataclasses.fields(config)
        )
    return _KNOWN[config]


def build(config: type[Any], values: dict[str, Any]) -> Any:
    """Return ``config(**values)``. Raises UserError (usage) for an unknown key or a value of a wrong type."""
    known = {f.name: f for f in fields(config)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"expected a setting of {config.__name__}, found {key!r}; {hint}")
        if value != known[key].default and not _fits(value, known[key].type):  # a default may be infinite
            raise UserError(f"{key}: expected {describe(known[key].type)}, found {value!r}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def above_zero(config: Any, *names: str) -> None:
    """Raise ValueError unless these fields of a config are greater than 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"expected {name} > 0, found {getattr(config, name)}")


def not_negative(config: Any, *names: str) -> None:
    """Raise ValueError unless these fields of a config are 0 or more."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"expected {name} of 0 or more, found {getattr(config, name)}")


def within_unit(config: Any, *names: str) -> None:
    """Raise ValueError unless these fields of a config lie in [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"expected {name} in [0, 1], found {getattr(config, name)}")


def sizes(config: Any, *names: str) -> None:
    """Raise ValueError unless these fields of a config have one or more layer widths of at least 1."""
    for name in names:
        widths = getattr(config, name)
        if not widths or min(widths) < 1:
            raise ValueError(
                f"expected {name} of 1 or more each, found {','.join(map(str, widths)) or 'none'}"
            )


def parse(text: str, type_: Any) -> Any:
    """Parse a flag's text as a value of a field's type. Raises ValueError if it is not one."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is types.UnionType:  # T | None: a text is a T
        return parse(text, args[0])
    if origin is typing.Literal:
        if text not in args:
            raise ValueError(f"expected {describe(type_)}, found {text!r}")
        return text
    if origin is tuple:
        return tuple(parse(part, args[0]) for part in text.split(",") if part)
    if type_ is bool:
        values = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
        if text.lower() not in values:
            raise ValueError(f"expected true or false, found {text!r}")
        return values[text.lower()]
    try:
        return type_(text)
    except ValueError as error:
        raise ValueError(f"expected {describe(type_)}, found {text!r}") from error


def describe(type_: Any) -> str:
    """Name a type in a few characters, such as number or chain|one_step."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is types.UnionType:
        return describe(args[0])
    if origin is typing.Literal:
        return "|".join(args)
    if origin is tuple:
        return f"{describe(args[0])},..."
    if origin is dict:
        return "a table"
    return {int: "integer", float: "number", bool: "true|false", str: "text"}.get(type_, str(type_))


def _fits(value: Any, type_: Any) -> bool:
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if type_ is Any:
        return True
    if origin is dict:
        return isinstance(value, dict)
    if origin is typing.Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(v, args[0]) for v in value)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in args)
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if type_ is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type_)


def _docstrings(config: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in itertools.pairwise(body.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = inspect.cleandoc(doc)
    return docs
