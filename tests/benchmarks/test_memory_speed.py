"""Drawing from ten million steps in a third of the memory that they take, beside drawing from memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drawing
import pytest

from dom2data import cache
from dom2data.dataset import Dataset
from dom2data.generate import generate, plan

pytestmark = pytest.mark.benchmark

Record = Callable[[str, float, str], None]
TURNS, SECONDS = 3, 5.0
SIDES = (
    ("memory", "none"),
    ("mapped", "data"),
    ("stream", "data"),
    ("mapped", "cgroup"),
    ("stream", "cgroup"),
)
LIMITS = {"data": "allocations", "cgroup": "all memory, files' pages too"}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """2.4 GB of tag, and its mapped tables."""
    root = tmp_path_factory.mktemp("large")
    made = generate(plan("tag", "random", steps=10_000_000, root=root))
    draw(root, made.id, "mapped", "none", 0, 0.1, 1024)
    return made, root


def draw(root: Path, *words: Any) -> dict[str, Any]:
    call = [sys.executable, drawing.__file__, str(root), *map(str, words)]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("batch", [1024, 256])
def test_in_a_third_of_the_memory(record: Record, large: tuple[Dataset, Path], batch: int) -> None:
    made, root = large
    folder = cache.folder(root) / made.hash
    nbytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    found: dict[tuple[str, str], list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(TURNS):
        for side, kept in found.items():
            result = draw(root, made.id, *side, nbytes // 3, SECONDS, batch)
            kept.extend([result] if result else [])
    drawing.leave()
    record(f"tables of 10^7 steps of tag, minibatches of 3 x {batch:,}", nbytes / 1e6, "MB")
    bare = min(each["seconds"] for each in found["memory", "none"])
    record("minibatch from memory", 1e6 * bare, "µs")
    for (data, kind), results in found.items():
        if kind == "none" or not results:
            continue
        best = min(results, key=lambda each: each["seconds"])
        ahead = ", read ahead" if best["read_ahead"] else ""
        record(f"{data}, a third of it for {LIMITS[kind]}{ahead}", 1e6 * best["seconds"], "µs")
        record("… throughput of memory's", 100 * bare / best["seconds"], "%")
        record("… peak of resident memory", max(each["peak"] for each in results) / 1e6, "MB")
        record("… of it allocated", max(each["own"] for each in results) / 1e6, "MB")
