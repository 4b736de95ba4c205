"""``dom2data convert`` and ``dom2data import``: write and read other formats."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dom2_cli import show as ui
from dom2_cli.generating import finish
from dom2_cli.options import json_option, place_option, replace_option, root_option
from dom2data.convert import FORMATS
from dom2data.errors import UserError

if TYPE_CHECKING:
    from dom2data.dataset import Dataset

_COMMON = ("env", "root", "force")  # the command's own options, not a format's
_option = click.option(
    "--option", "options", multiple=True, metavar="K=V", help="An option of the format; may be repeated."
)


@click.command()
@click.argument("dataset", metavar="ID")
@click.option("--to", "format_", required=True, help=f"Format: {', '.join(FORMATS)}.")
@click.option("--out", type=click.Path(path_type=Path), help="File or folder to write [./<name>.<format>].")
@_option
@replace_option
@place_option
def convert(
    dataset: str, format_: str, out: Path | None, options: tuple[str, ...], force: bool, root: Path | None
) -> None:
    """Write a dataset in another format.

    \b
    dom2data convert tag-medium --to npz --out tag-medium.npz
    dom2data convert tag-medium --to omar --out simple_tag/medium
    """
    from dom2data import convert as formats
    from dom2data import ids
    from dom2data.dataset import open as open_dataset

    module = formats.module(format_)
    if not hasattr(module, "write"):
        raise UserError(f"expected a format that can be written, found {format_}")
    given = _parsed(format_, module.write, options)
    found = open_dataset(dataset, root)
    folder = None if isinstance(ids.place(root), str) else root  # a dataset at a URL is written locally
    path = out or _default_path(module, found, format_, folder)
    if "root" in inspect.signature(module.write).parameters:
        given["root"] = folder
    written = module.write(found, path, force=force, **given)
    click.echo(ui.rows({"format": format_, "path": str(written), "size": ui.size(_size(written))}))


@click.command("import")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--from", "format_", help=f"Format: {', '.join(FORMATS)} [an exported zip].")
@click.option("--env", help="Environment that the data come from; the dataset takes its spec.")
@click.option("--out", metavar="ID", help="Dataset id [dom2/<file name>-v0].")
@_option
@replace_option
@root_option
@json_option
def import_data(
    path: Path,
    format_: str | None,
    env: str | None,
    out: str | None,
    options: tuple[str, ...],
    force: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Make a dataset from a file or folder in another format, or from an exported zip.

    \b
    dom2data import tag-medium.npz --from npz --out tag-copied
    dom2data import simple_tag/medium --from omar --option seed=0
    dom2data import tag-medium.zip

    Prints every assumption and change, and records them in the dataset.
    """
    from dom2data import ids

    base = ids.root(root)
    if format_ is None:
        made = _unpacked(path, (env, out, *options), base, force)
    else:
        made = _converted(path, format_, env, out, options, base, force)
    finish(made, root, as_json)


def _unpacked(path: Path, unused: Sequence[object], base: Path, force: bool) -> Dataset:
    if path.suffix != ".zip":
        raise UserError(f"expected --from FORMAT ({', '.join(FORMATS)}) with {path.name}, found none")
    if any(unused):
        raise UserError(
            "expected no --env, --out or --option with an exported zip, found one; it says them itself"
        )
    from dom2data import share

    with ui.progress_bar() as progress:
        return share.unpack(path, base, force, progress)


def _converted(
    path: Path,
    format_: str,
    env: str | None,
    out: str | None,
    options: Sequence[str],
    base: Path,
    force: bool,
) -> Dataset:
    from dom2data import convert as formats
    from dom2data import ids
    from dom2data.convert.ingest import ingest

    module = formats.module(format_)
    if not hasattr(module, "read"):
        raise UserError(f"expected a format that can be read, found {format_}")
    given = _parsed(format_, module.read, options)
    target = ids.full(out or path.name.partition(".")[0] or "imported")
    if not force and (base / target).exists():
        raise UserError(
            f"expected a new id, found {target} in {base}; --force replaces it, --out names another"
        )
    if env is not None:
        given["env"] = env
    if "root" in inspect.signature(module.read).parameters:
        given["root"] = base
    found = module.read(path, **given)
    made = ingest(found, target, base, force)
    for note in found.notes:
        ui.note(f"note: {note}")
    return made


def _parsed(format_: str, function: Callable[..., Any], options: Sequence[str]) -> dict[str, Any]:
    """Parse ``K=V`` words as keyword arguments of a reader or writer. Raises UserError (code 2)."""
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _COMMON
    }
    found: dict[str, Any] = {}
    for word in options:
        name, equals, text = word.partition("=")
        if name not in parameters or not equals:
            known = ", ".join(f"{known}=..." for known in parameters) or "none"
            raise UserError(
                f"expected --option of {format_} to be one of {known}, found {word!r}"
                + ui.suggest(name, list(parameters))
            )
        found[name] = _value(name, text, str(parameters[name].annotation))
    return found


def _value(name: str, text: str, annotation: str) -> Any:
    if "bool" in annotation:
        if text not in ("true", "false"):
            raise UserError(f"expected {name} to be true or false, found {text!r}")
        return text == "true"
    if "int" in annotation:
        if not text.isdecimal() or len(text) > 18:
            raise UserError(f"expected {name} to be a number of 0 or more, found {text!r}")
        return int(text)
    return text


def _default_path(module: Any, found: Dataset, format_: str, root: Path | None) -> Path:
    from dom2data import ids

    if hasattr(module, "default_path"):
        return Path(module.default_path(found.id, ids.root(root)))
    return Path(f"{ids.split(found.id)[1]}.{format_}")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


COMMANDS = (convert, import_data)
