"""``dom2data report``, ``play`` and ``card``: look at a dataset and describe it for others."""

from __future__ import annotations

from pathlib import Path

import click

from dom2_cli import show as ui
from dom2_cli.options import force_option, place_option, root_option


@click.command()
@click.argument("dataset", metavar="ID")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write [./<name>-report.html]."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed for sampling steps.")
@force_option
@place_option
def report(dataset: str, out: Path | None, seed: int, force: bool, root: Path | None) -> None:
    """Write a self-contained HTML page about a dataset.

    \b
    dom2data report tag-medium
    dom2data report tag-medium --out page.html

    Shows returns by policy and agent, actions, states, coverage, possible problems, and animated episodes.
    """
    from dom2data import ids
    from dom2data.dataset import open as open_dataset
    from dom2data.look.report import write

    found = open_dataset(dataset, root)
    file = out or Path(f"{found.id.rpartition('/')[2]}-report.html")
    write(found, ids.place(root), file, force=force, seed=seed)
    click.echo(ui.rows({"id": found.id, "report": str(file), "size": ui.size(file.stat().st_size)}))


@click.command()
@click.argument("dataset", metavar="ID")
@click.option("--episode", type=int, default=0, show_default=True, help="Episode number, from 0.")
@click.option(
    "--video",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, .gif or .mp4 [./<name>-<episode>.gif].",
)
@click.option("--stride", type=int, help="Steps between frames [the smallest with at most about 200 frames].")
@click.option("--fps", type=click.IntRange(1, 50), default=10, show_default=True, help="Frames per second.")
@force_option
@place_option
def play(
    dataset: str,
    episode: int,
    video: Path | None,
    stride: int | None,
    fps: int,
    force: bool,
    root: Path | None,
) -> None:
    """Render a stored episode as a GIF or, with imageio[ffmpeg] installed, an MP4.

    \b
    dom2data play tag-medium --episode 3 --video out.gif
    """
    from dom2data.dataset import open as open_dataset
    from dom2data.look import play as film

    found = open_dataset(dataset, root)
    file = video or Path(f"{found.id.rpartition('/')[2]}-{episode}.gif")
    film.check(file, force)
    pictures = film.frames(found, episode, stride)
    film.write(pictures, file, fps, force)
    shown = f"{episode}, return {found.returns[episode]:.2f}"
    click.echo(ui.rows({"id": found.id, "episode": shown, "video": str(file), "frames": str(len(pictures))}))


@click.command()
@click.argument("dataset", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder [the dataset's own].")
@click.option("--license", help="SPDX identifier [CC-BY-4.0]; required for data made elsewhere.")
@click.option("--creator", help="Author to cite.")
@click.option("--url", help="URL where the files will be available.")
@force_option
@root_option
def card(
    dataset: str,
    out: Path | None,
    license: str | None,
    creator: str | None,
    url: str | None,
    force: bool,
    root: Path | None,
) -> None:
    """Write a dataset's card: README.md, croissant.json (core and RAI) and episodes.csv.

    \b
    dom2data card tag-medium
    dom2data card tag-medium --creator "A. Author" --url https://example.org/data
    """
    from dom2data import ids
    from dom2data.dataset import open as open_dataset
    from dom2data.look.card import write

    base = ids.root(root)
    found = open_dataset(dataset, base)
    files = write(found, base, out or base / found.id, license=license, creator=creator, url=url, force=force)
    click.echo(ui.rows({"id": found.id} | {file.name: str(file) for file in files}))


COMMANDS = (report, play, card)
