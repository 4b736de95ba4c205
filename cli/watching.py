"""Progress of many runs: a live table on a terminal, and a line for each run that ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dom2_cli import show as ui
from dom2data.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from dom2.jobs import Job, Outcome

ROWS = 20
"""runs in the live table"""


def attend(
    jobs: Sequence[Job], outcomes: Generator[Outcome], base: Path, title: str = "runs"
) -> list[Outcome]:
    """Show the progress of jobs, named by their folders below ``base``; return the last outcome of each.

    Raises UserError (code 130) when they were interrupted.
    """
    ended: dict[Path, Outcome] = {}
    stopped = UserError("interrupted; everything begun is saved, the same command continues", INTERRUPTED)
    try:
        with live(lambda since: picture(jobs, ended, since, base, title)), closing(outcomes):
            for outcome in outcomes:
                if outcome.word == "interrupted":
                    raise stopped
                if outcome.word != "retried":
                    ended[outcome.job.folder] = outcome
                name = outcome.job.folder.relative_to(base)
                ui.note(f"[{len(ended)}/{len(jobs)}] {name} {ending(outcome)}")
    except KeyboardInterrupt:  # while workers, not this process, were doing the runs
        raise stopped from None
    return list(ended.values())


def ending(outcome: Outcome) -> str:
    """Describe how a run ended; the text follows its name."""
    return {
        "done": f"done in {ui.duration(outcome.seconds)}",
        "failed": f"failed: {outcome.error}",
        "retried": f"failed, and will be tried again: {outcome.error}",
        "elsewhere": "skipped: another process is doing it",
    }[outcome.word]


@contextmanager
def live(drawn: Callable[[float], Any]) -> Iterator[None]:
    """While entered, show ``drawn(since)`` on standard error if that is a terminal.

    ``since`` is the time of entering, in seconds since the epoch. Notes written meanwhile appear above it.
    """
    from rich.console import Console
    from rich.live import Live

    console, since = Console(stderr=True), time.time()
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=lambda: drawn(since), console=console, refresh_per_second=1, transient=True):
        yield


def picture(jobs: Sequence[Job], ended: dict[Path, Outcome], since: float, base: Path, title: str) -> Any:
    """Return the live table: counts, and a line for each run in progress."""
    from rich.console import Group
    from rich.table import Table

    from dom2 import progress

    running = progress.moving((job for job in jobs if job.folder not in ended), since)
    counts = Counter(outcome.word for outcome in ended.values())
    waiting = len(jobs) - len(ended) - len(running)
    words = [f"{counts[word]} {word}" for word in ("done", "failed", "elsewhere") if counts[word]]
    caption = ", ".join([*words, f"{len(running)} running", f"{waiting} waiting"])
    table = Table(box=None)
    for heading in ("run", "updates", "of", "updates/s", "time left"):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for each in running[:ROWS]:
        left = "evaluating" if each.evaluating else "–" if each.left is None else ui.duration(each.left)
        name = str(each.job.folder.relative_to(base))
        table.add_row(name, f"{each.done:,}", f"{each.wanted:,}", ui.number(each.rate), left)
    if len(running) > ROWS:
        table.add_row(f"and {len(running) - ROWS} more")
    return Group(f"{len(jobs)} {title}: {caption}", *([table] if running else []))
