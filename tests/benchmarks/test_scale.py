"""What each executor costs, and what the coordinator of a very large generation has to do itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dom2data import envs, generate, stats
from dom2data.executors import Executor, Local, Processes, Threads
from dom2data.on_ray import Ray
from dom2data.store import manifest as manifests
from dom2data.store import zarr
from dom2data.store.layout import layout
from dom2data.store.stage import Stage

pytestmark = pytest.mark.benchmark

Record = Callable[[str, float, str], None]
STEPS = {"tag": 4_000_000, "halfcheetah": 400_000}
BLOCKS = 20_000
"""of 10^9 samples of tag, nearly: 16,000"""


def nothing(job: int) -> int:
    return job


@pytest.mark.parametrize("executor", [Processes(2), Ray(2)], ids=["processes", "ray"])
def test_overhead_for_each_block(record: Record, executor: Executor) -> None:
    name = type(executor).__name__
    start = time.perf_counter()
    list(executor.map(nothing, range(2)))
    started = time.perf_counter() - start
    record(f"{name}: to start", started, "s")
    start = time.perf_counter()
    list(executor.map(nothing, range(1_000)))
    again = started if isinstance(executor, Processes) else 0.0  # its processes end with each map
    record(f"{name}: a job of nothing, of 1,000", time.perf_counter() - start - again, "ms")


@pytest.mark.parametrize("env", ["tag", "halfcheetah"])
def test_generation_by_executor(record: Record, env: str, tmp_path: Path) -> None:
    """Of a medium dataset, workers already started by a small one where they outlive it (Ray)."""
    hashes = set()
    for number, executor in enumerate((Local(), Threads(2), Processes(2), Ray(1), Ray(2))):
        workers = getattr(executor, "workers", 1)
        small = generate.plan(env, "medium", steps=1000, out="dom2/small-v0", root=tmp_path / f"{number}")
        generate.generate(small, executor=executor)
        todo = generate.plan(env, "medium", steps=STEPS[env], root=tmp_path / f"{number}")
        start = time.perf_counter()
        hashes.add(generate.generate(todo, executor=executor).hash)
        rate = STEPS[env] / (time.perf_counter() - start)
        record(f"{env}, {type(executor).__name__}, {workers} worker{'s' * (workers > 1)}", rate, "steps/s")
    assert len(hashes) == 1


def test_the_coordinators_share(record: Record, tmp_path: Path) -> None:
    """Files of 8 bytes in place of chunks: what is measured is what depends on their number."""
    spec = envs.spec("tag")
    layouts = layout(spec, BLOCKS, BLOCKS, block=1)
    layouts["observations"] = layout(spec, BLOCKS, BLOCKS, block=1)["rewards"]
    stage = Stage("dom2/many-v0", tmp_path)
    recipe = {"seed": 0}
    stage.begin(recipe, lambda data: zarr.create(data, layouts))
    names = [name for name in layouts if name != "offsets"]
    leaves = {name: manifests.digest(name.encode()) for name in names}
    start = time.perf_counter()
    for block in range(BLOCKS):
        stage.record(block, leaves)
    record("noting a block (a worker's)", 1e3 * (time.perf_counter() - start) / BLOCKS, "ms each")
    for name in names:
        (stage.data / name / "c").mkdir()
        for block in range(BLOCKS):
            (stage.data / name / "c" / str(block)).write_bytes(b"12345678")
    start, some = time.perf_counter(), 1_000
    for block in range(some):
        manifests.settle(stage.data / "returns" / "c" / str(block))
    record("flushing a chunk to disk (a worker's)", 1e3 * (time.perf_counter() - start) / some, "ms each")
    times = {}

    def timed(what: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = call()
        times[what] = time.perf_counter() - start
        return found

    timed("reading the notes of all blocks on resuming", lambda: stage.begin(recipe, lambda data: None))
    all_leaves = {n: [leaves.get(n, "0" * 64)] * layouts[n].n_chunks for n in layouts}
    entries = timed("hashing leaves into arrays", lambda: manifests.array_entries(layouts, all_leaves))
    nbytes = timed("adding up the sizes of all files", stage.size)
    returns = np.random.default_rng(0).standard_normal((40_000_000, 3)).astype(np.float32)
    summary = timed(
        "statistics of 4 x 10^7 returns",
        lambda: stats.returns_summary(spec.agent_names, returns.mean(axis=1), returns),
    )
    document = {
        "schema": manifests.SCHEMA, "id": stage.dataset_id, "env": "tag", "quality": "medium",
        "spec": spec.to_json(), "steps": BLOCKS, "episodes": BLOCKS, "returns": summary,
        "references": {"published": None, "own": None}, "recipe": recipe, "sources": [], "policies": {},
        "parents": [], "arrays": entries, "hash": manifests.content_hash(spec, entries), "size_bytes": nbytes,
        "created": "today", "wall_s": 0.0, "versions": {"dom2": "0"},
    }  # fmt: skip
    timed("writing the manifest", lambda: manifests.write(stage.data, document))
    for what, seconds in times.items():
        record(f"coordinator, {BLOCKS:,} blocks: {what}", seconds, "s")
    size = (stage.data / manifests.FILE).stat().st_size
    record("… the manifest", size / 1e6, "MB")
    start = time.perf_counter()
    json.loads((stage.data / manifests.FILE).read_text())
    record("… reading the manifest", time.perf_counter() - start, "s")


def test_help_starts_as_fast_as_before(record: Record) -> None:
    """Ray, Optuna and torch are imported by those who ask for them."""
    words = [sys.executable, "-c", "from dom2_cli.data import main; main()", "--help"]
    start = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    record("dom2data --help", time.perf_counter() - start, "s")
