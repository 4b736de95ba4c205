"""Metrics of a run: one JSON object per line, and their means over seeds as TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dom2data.errors import naming
from dom2data.new_file import replacing

_TAIL = 1 << 16
"""bytes at the end of ``metrics.jsonl`` that are searched for its last line"""


class Track:
    """Appends to ``metrics.jsonl`` and to the TensorBoard events in ``tensorboard/``.

    Lines after ``last_update`` are dropped first: a run that died after its last checkpoint logs them again.
    """

    def __init__(self, folder: Path, last_update: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed while fitting

        self._path = path = folder / "metrics.jsonl"
        kept = [json.dumps(line) + "\n" for line in read(folder) if line["update"] <= last_update]
        with replacing(path) as partial:
            partial.write_text("".join(kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=last_update + 1)

    def log(self, update: int, values: dict[str, Any]) -> None:
        """Write numbers, or lists of one number per seed, under names such as ``train/actor/bc``."""
        with naming(self._path):
            self._file.write(json.dumps({"update": update} | values) + "\n")
            self._file.flush()
        with naming(self._path.with_name("tensorboard")):
            for name, value in values.items():
                mean = sum(value) / len(value) if isinstance(value, list) else value
                self._events.add_scalar(name, mean, update)

    def flush(self) -> None:
        """Wait until the events are in their file: a thread, or TensorFlow, writes them with a delay."""
        with naming(self._path.with_name("tensorboard")):
            self._events.flush()

    def __enter__(self) -> Track:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for part in (self._file, self._events):
            # On a full disk closing fails, too, and the error being raised says more.
            with suppress(OSError) if error else naming(self._path):
                part.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the valid lines of ``metrics.jsonl``, without one that a crash has truncated, for example."""
    path = folder / "metrics.jsonl"
    return list(_records(path.read_text(errors="replace").splitlines() if path.exists() else []))


def last(folder: Path) -> dict[str, Any]:
    """Return the last valid line, reading only the end of the file if that suffices; {} if there is none."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        found = next(_records(reversed(file.read().decode(errors="replace").splitlines())), None)
    return found or next(reversed(read(folder)), {})


def _records(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("update"), int):
            yield record


def seconds(lines: Iterable[dict[str, Any]]) -> float:
    """Seconds spent fitting, from a run's metrics, in which the clock restarts when the run is resumed."""
    total = last = 0.0
    begun = 0
    for line in lines:
        now, rate = line.get("time/seconds", last), line.get("time/updates_per_second", 0.0)
        start = round(line.get("update", 0) - now * rate)  # the update at which this clock started
        total += now if now < last or start != begun else now - last
        last, begun = now, start
    return total
