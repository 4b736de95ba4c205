"""Progress of the runs under way, read from their folders, whichever process or machine works on them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from dom2 import evaluate, track
from dom2.jobs import Job


class Moving(NamedTuple):
    """A run under way. ``rate`` is updates per second, None before its first line of metrics."""

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
    """Find unfinished runs whose files have changed since ``since`` (seconds since the epoch).

    The status alone is not enough, because a killed run's says ``running`` for ever. The claim is not tested,
    because holding it even for a moment would keep workers from the run.
    """
    found = []
    for job in jobs:
        with suppress(OSError, ValueError):  # a file being replaced will be there next time
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
    word, line = status.read_text().strip(), track.last(job.folder)
    rate, wanted = line.get("time/updates_per_second"), job.settings["updates"]
    if word == "running":
        return Moving(job, line.get("update", 0), wanted, rate, evaluating=False)
    files = [evaluate.file(job.folder, shift) for shift in job.shifts]
    if word == "complete" and any(not f.exists() or f.stat().st_mtime < written for f in files):
        return Moving(job, wanted, wanted, rate, evaluating=True)
    return None
