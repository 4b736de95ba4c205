"""``dom2data export``, ``push`` and ``pull``: write a dataset as one file, or copy it to or from a URL."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dom2_cli import show as ui
from dom2_cli.options import force_option, root_option
from dom2data.errors import FAILED, UserError


def delivered(make: Callable[..., None]) -> Callable[..., None]:
    """Let a command that makes datasets take a URL as root: make them in a local folder, send, then remove.

    Datasets that an interrupted upload left behind are kept and sent by the next command for that URL. If
    some of many fail, the others are still sent. Ray workers, on many machines, send their blocks themselves.
    """

    @functools.wraps(make)
    def command(root: Path | None, force: bool, dry_run: bool, **given: Any) -> None:
        from dom2data import ids, share

        place = ids.place(root)
        if isinstance(place, Path) or given.get("executor") == "ray":
            return make(root=root, force=force, dry_run=dry_run, **given)
        if given.get("shard") or given.get("store") == "minari":
            raise UserError(f"expected a folder as root with --shard and --store minari, found {place}")
        here = share.outgoing(place)
        ui.note(f"datasets are made in {here} first, then sent to {place}")
        make_here = functools.partial(make, root=here, there=place, force=force, dry_run=dry_run, **given)
        if dry_run:
            return make_here()
        with share.only_sender(here):
            before = markers(here)
            failed: list[UserError] = []
            try:
                make_here()
            except UserError as error:
                if error.code != FAILED:
                    raise
                failed.append(error)
            made = [each for each, marker in markers(here).items() if before.get(each) != marker]
            failed += send_all(made, here, place, force)
        if failed:
            raise UserError("; ".join(error.message for error in failed), failed[0].code)

    return command


def markers(base: Path) -> dict[str, str]:
    """Return the completion marker of every dataset under a folder, by id."""
    from dom2data import ids
    from dom2data.store import manifest as manifests

    return {each: manifests.marker(ids.directory(each, base)) for each in ids.existing(base)}


def send_all(made: Sequence[str], here: Path, place: str, force: bool) -> list[UserError]:
    """Deliver new datasets, then those still waiting; return the errors of those that could not be sent.

    ``force`` applies to the new datasets only: those still waiting may come from another command.
    """
    failed = []
    for dataset_id in [*made, *(each for each in markers(here) if each not in made)]:
        try:
            sent(dataset_id, here, place, force and dataset_id in made)
        except UserError as error:
            push = f"`dom2data push {dataset_id} {place} --root {here} --force` replaces it"
            reason = error.message.replace("--force replaces it", push)
            failed.append(UserError(f"{dataset_id} stays in {here}: {reason}", FAILED))
            if error.code == FAILED:  # the others would fail, too
                break
    return failed


def sent(dataset_id: str, here: Path, place: str, force: bool) -> None:
    """Deliver a dataset, with a progress bar."""
    from dom2data import share

    with ui.progress_bar() as progress:
        share.deliver(dataset_id, here, place, force, progress)
    ui.note(f"{dataset_id} sent to {place} and removed from {here}")


@click.command()
@click.argument("dataset", metavar="ID")
@click.argument("file", metavar="FILE.zip", type=click.Path(path_type=Path, dir_okay=False))
@force_option
@root_option
def export(dataset: str, file: Path, force: bool, root: Path | None) -> None:
    """Verify a dataset and write it as one zip file; `dom2data import FILE.zip` reads it.

    \b
    dom2data export tag-medium tag-medium.zip

    The same dataset always gives the same bytes.
    """
    from dom2data import ids, share
    from dom2data.dataset import open as open_dataset

    base = ids.root(root)
    found = open_dataset(dataset, base)
    with ui.progress_bar() as progress:
        share.pack(found, base, file, force=force, progress=progress)
    facts = {"id": found.id, "file": str(file), "size": ui.size(file.stat().st_size), "hash": found.hash}
    click.echo(ui.rows(facts))


@click.command()
@click.argument("dataset", metavar="ID")
@click.argument("url", metavar="URL")
@force_option
@root_option
def push(dataset: str, url: str, force: bool, root: Path | None) -> None:
    """Verify a dataset and copy it to a URL. It can be opened there only once the last file has arrived.

    \b
    dom2data push tag-medium file:///tmp/shared
    dom2data push tag-medium s3://bucket/datasets

    Repeat the same command to continue an interrupted upload.
    """
    from dom2data import ids, share
    from dom2data.dataset import open as open_dataset

    base = ids.root(root)
    found = open_dataset(dataset, base)
    with ui.progress_bar() as progress:
        share.push(found, base, url, force, progress)
    click.echo(ui.rows({"id": found.id, "url": f"{url.rstrip('/')}/{found.id}", "hash": found.hash}))


@click.command()
@click.argument("dataset", metavar="ID")
@click.argument("url", metavar="URL")
@force_option
@root_option
def pull(dataset: str, url: str, force: bool, root: Path | None) -> None:
    """Copy a dataset from a URL. It can be opened here only after it has been verified.

    \b
    dom2data pull tag-medium file:///tmp/shared
    dom2data pull tag-medium s3://bucket/datasets
    """
    from dom2data import ids, share

    base = ids.root(root)
    with ui.progress_bar() as progress:
        found = share.pull(dataset, url, base, force, progress)
    click.echo(ui.rows({"id": found.id, "path": str(base / found.id), "hash": found.hash}))


COMMANDS = (export, push, pull)
