"""``dom2 runs``, ``compare`` and ``play``: list runs, compare them, and watch them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dom2_cli import show as ui
from dom2_cli.options import force_option, json_option, mismatch_option, run_argument
from dom2data.errors import UserError

if TYPE_CHECKING:
    from dom2.results import Result


STATES = (
    "evaluated", "complete", "running", "interrupted", "failed", "killed", "new", "broken", "foreign"
)  # fmt: skip


@click.command()
@click.argument("folder", metavar="[FOLDER]", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--algorithm", help="Only runs of this algorithm.")
@click.option("--dataset", metavar="WORD", help="Only runs whose dataset id contains this.")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@json_option
def runs(folder: Path, algorithm: str | None, dataset: str | None, state: str | None, as_json: bool) -> None:
    """List the runs under a folder [runs], and also folders there that are not runs or are broken.

    \b
    dom2 runs
    dom2 runs runs/reproduce --dataset tag-medium --state evaluated --json

    States: evaluated, complete (not evaluated yet), running, interrupted, failed, new; killed (its process
    is gone; dom2 fit --resume continues it); broken (unreadable files); foreign (not a run).
    """
    from dom2 import results

    if not folder.is_dir():
        raise UserError(f"expected a folder of runs, found none at {folder}; dom2 fit --dataset ID makes one")
    listed = []
    for place in results.scan(folder):
        found, word = None, results.state(place)
        if word not in ("broken", "foreign"):
            found = results.read(place)
        if algorithm and (found is None or found.algorithm != algorithm):
            continue
        if dataset and (found is None or dataset not in found.dataset["id"]):
            continue
        if state in (None, word):
            listed.append((place, word, found))
    if as_json:
        ui.print_json(
            [
                found.to_json() if found else {"folder": str(place), "state": word}
                for place, word, found in listed
            ]
        )
        return
    header = ("run", "state", "algorithm", "dataset", "seeds", "updates", "return", "score")
    ui.table(header, [run_row(place, word, found) for place, word, found in listed])


def run_row(folder: Path, word: str, found: Result | None) -> tuple[str, ...]:
    """Return a run's row of the table; dashes mark missing values."""
    if found is None:
        return (str(folder), word, *["–"] * 6)
    import numpy as np

    from dom2.evaluate import STANDARD
    from dom2.tables import normalized

    standard = found.ways.get("none") == STANDARD  # the rest is for `dom2 compare`, which refuses to mix them
    values = np.array(found.returns["none"]) if word == "evaluated" and standard else None
    score = None if values is None else normalized(found.dataset["env"], values)
    return (
        str(folder),
        word,
        found.algorithm,
        found.dataset["id"],
        str(len(found.seeds)),
        f"{found.updates:,}",
        "–" if values is None else f"{values.mean():.1f} ± {values.std():.1f}",
        ui.number(None if score is None else float(score.mean())),
    )


@click.command()
@click.argument("folders", metavar="RUN RUN ...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--shift", default="none", show_default=True, help="Compare evaluations under this shift.")
@json_option
def compare(folders: tuple[Path, ...], shift: str, as_json: bool) -> None:
    """Compare evaluated runs: returns over seeds with intervals, and the probability of beating the first.

    \b
    dom2 compare runs/tag-medium-v0-dom2 runs/tag-medium-v0-omar

    Exit code 3 if data or environments of the same name differ, or if runs were evaluated in different ways
    (--seed, --candidates).
    """
    from dom2 import results, statistics
    from dom2.tables import normalized
    from dom2data.envs import shifts

    if shift != "none" and shift not in shifts.SHIFTS:
        raise UserError(f"expected a shift (none, {', '.join(shifts.SHIFTS)}), found {shift!r}")
    found = [results.read(folder) for folder in folders]
    for folder, each in zip(folders, found, strict=True):
        require_evaluated(folder, each, shift)
    results.comparable(found)
    results.alike(found, shift)
    import numpy as np

    rows: list[dict[str, Any]] = []
    first = np.array(found[0].returns[shift])
    for each in found:
        values = np.array(each.returns[shift])
        score = normalized(each.dataset["env"], values)
        same = each.dataset["env"] == found[0].dataset["env"] and each is not found[0]
        rows.append(
            {
                "run": each.folder,
                "algorithm": each.algorithm,
                "dataset": each.dataset["id"],
                "updates": each.updates,
                "seeds": len(values),
                "episodes": each.episodes[shift],
                **statistics.spread(values[None], least=statistics.LEAST_SEEDS),
                "score": None if score is None else float(score.mean()),
                "improvement": statistics.improvement([values], [first]) if same else None,
            }
        )
    if as_json:
        ui.print_json(rows)
        return
    counts, numbers = ("updates", "seeds"), ("return", "IQM", "95 %", "score", "P(> first)")
    ui.table(("run", "algorithm", "dataset", *counts, *numbers), [compare_row(row) for row in rows])


def require_evaluated(folder: Path, found: Result, shift: str) -> None:
    """Raises UserError, which says what to do, if a run has no evaluation under a shift."""
    if found.state == "evaluated" and shift in found.returns:
        return
    extra = "" if shift == "none" else f" --shift {shift}"
    what = f"one that is {found.state}" if found.state != "evaluated" else f"none under shift {shift}"
    goes_on = found.state in ("interrupted", "killed", "failed", "new")
    do = f"dom2 fit --resume {folder}" if goes_on else f"dom2 evaluate {folder}{extra}"
    raise UserError(f"{folder}: expected an evaluated run, found {what}; {do}")


def compare_row(row: dict[str, Any]) -> tuple[str, ...]:
    better = row["improvement"]
    return (
        row["run"],
        row["algorithm"],
        row["dataset"],
        f"{row['updates']:,}",
        str(row["seeds"]),
        f"{row['mean']:.1f} ± {row['std']:.1f}",
        ui.number(row["iqm"]),
        "–" if row["ci"] is None else "[{:.1f}, {:.1f}]".format(*row["ci"]),
        ui.number(row["score"]),
        "–" if better is None else chance(better),
    )


def chance(better: dict[str, Any]) -> str:
    """0.84 [0.61, 0.97]"""
    ends = "" if better["ci"] is None else " [{:.2f}, {:.2f}]".format(*better["ci"])
    return f"{better['mean']:.2f}{ends}"


@click.command()
@run_argument
@click.option(
    "--video",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, .gif or .mp4 [RUN/play.gif].",
)
@click.option("--agents", type=int, help="Show the agents trained with this seed [the run's first].")
@click.option(
    "--episodes", type=click.IntRange(1, 20), default=2, show_default=True, help="Number of episodes."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed for initial states and noise."
)
@click.option("--shift", metavar="NAME", default="none", show_default=True, help="Environment shift.")
@click.option("--stride", type=int, help="Steps between frames [the smallest with at most about 200 frames].")
@click.option("--fps", type=click.IntRange(1, 50), default=10, show_default=True, help="Frames per second.")
@force_option
@mismatch_option
def play(
    folder: Path,
    video: Path | None,
    agents: int | None,
    episodes: int,
    seed: int,
    shift: str,
    stride: int | None,
    fps: int,
    force: bool,
    allow_mismatch: bool,
) -> None:
    """Roll out a run's agents and write a GIF or, with imageio[ffmpeg] installed, an MP4.

    \b
    dom2 play runs/tag-medium-v0-dom2 --video chase.gif
    dom2 play runs/tag-medium-v0-dom2 --shift speed --episodes 4
    """
    from dom2 import film
    from dom2 import run as described
    from dom2data.look import play as video_files

    found = described.read(folder)
    file = video or folder / "play.gif"
    video_files.check(file, force)
    chosen = found.seeds[0] if agents is None else agents
    pictures, returns = film.frames(found, chosen, episodes, seed, shift, stride, allow_mismatch)
    video_files.write(pictures, file, fps, force)
    facts = {
        "run": str(folder),
        "agents": f"seed {chosen}, shift {shift}",
        "returns": ", ".join(f"{value:.1f}" for value in returns),
        "video": str(file),
        "frames": str(len(pictures)),
    }
    click.echo(ui.rows(facts))


COMMANDS = (runs, compare, play)
