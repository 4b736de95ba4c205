"""How far the runs are that somebody is at, read from their folders: whichever process, whatever machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dom2 import evaluate
from dom2.jobs import Job

_TAIL = 1 << 16
"""bytes at the end of ``metrics.jsonl`` in which its last line is looked for"""


class Moving(NamedTuple):
    """A run that somebody is at. ``rate`` is updates per second, None before its first line of metrics."""

    job: Job
    done: int
    wanted: int
    rate: float | None
    evaluating: bool

    @property
    def left(self) -> float | None:
        """Seconds that fitting still takes."""
        return (self.wanted - self.done) / self.rate if self.rate else None


def moving(jobs: Iterable[Job], since: float) -> list[Moving]:
    """The runs whose files have changed since ``since`` (seconds since the epoch) and that are not done.

    A killed run's status says ``running`` for ever, so the word alone is not enough; and its claim is not
    looked at, because whoever holds it for a moment keeps workers from it.
    """
    found = []
    for job in jobs:
        with suppress(OSError, ValueError):  # a file that is being replaced is there again at the next look
            if (seen := _moving(job, since)) is not None:
                found.append(seen)
    return found


def _moving(job: Job, since: float) -> Moving | None:
    status, metrics = job.folder / "status", job.folder / "metrics.jsonl"
    if not status.exists():
        return None
    written = status.stat().st_mtime
    if max(written, metrics.stat().st_mtime if metrics.exists() else 0.0) < since:
        return None
    word, line = status.read_text().strip(), last_line(metrics)
    rate, wanted = line.get("time/updates_per_second"), job.settings["updates"]
    if word == "running":
        return Moving(job, line.get("update", 0), wanted, rate, evaluating=False)
    files = [evaluate.file(job.folder, shift) for shift in job.shifts]
    if word == "complete" and any(not f.exists() or f.stat().st_mtime < written for f in files):
        return Moving(job, wanted, wanted, rate, evaluating=True)
    return None


def last_line(metrics: Path) -> dict[str, Any]:
    """The last whole line of ``metrics.jsonl``; nothing where there is none yet."""
    if not metrics.exists():
        return {}
    with metrics.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        *lines, _ = file.read().split(b"\n")  # what follows the last newline is not written to its end yet
    return json.loads(lines[-1]) if lines else {}


def fitted_seconds(lines: Iterable[dict[str, Any]]) -> float:
    """Seconds spent fitting, by a run's metrics; the clock of each line begins anew when a run is resumed."""
    total = last = 0.0
    begun = 0
    for line in lines:
        now, rate = line.get("time/seconds", last), line.get("time/updates_per_second", 0.0)
        start = round(line.get("update", 0) - now * rate)  # of this clock
        total += now if now < last or start != begun else now - last
        last, begun = now, start
    return total
