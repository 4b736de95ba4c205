"""Metrics of a run: one JSON object a line, and the same means as TensorBoard events."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Track:
    """Appends to ``metrics.jsonl`` and to the TensorBoard events in ``tensorboard/``.

    Lines after ``last_update`` are dropped first: a run that died after its last checkpoint repeats them.
    """

    def __init__(self, folder: Path, last_update: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed while fitting

        path = folder / "metrics.jsonl"
        kept = [json.dumps(line) + "\n" for line in read(folder) if line["update"] <= last_update]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=last_update + 1)

    def log(self, update: int, values: dict[str, Any]) -> None:
        """Write numbers, or lists of one number per seed, under names such as ``train/actor/bc``."""
        self._file.write(json.dumps({"update": update} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            mean = sum(value) / len(value) if isinstance(value, list) else value
            self._events.add_scalar(name, mean, update)

    def __enter__(self) -> Track:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without those that are none, such as a last one cut short by a crash."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("update"), int):
            records.append(record)
    return records
