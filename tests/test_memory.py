"""How much memory there is, read from what the system says of itself, and a run that has too little."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from small_datasets import in_memory
from tiny import new_run, tag_random

from dom2 import fit
from dom2.algorithms.dom2 import DOM2
from dom2data import dataset, memory, ragged
from dom2data.errors import UserError
from dom2data.store import layout, zarr
from dom2data.store.manifest import digest
from dom2data.store.stage import Stage

torch.set_num_threads(1)
MACHINE = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 1000 kB\nSwapFree: 24 kB\n"}
SECOND = {
    "/proc/self/cgroup": "0::/a/b\n",
    "/sys/fs/cgroup/a/b/memory.max": "max\n",
    "/sys/fs/cgroup/a/memory.max": "900000\n",
    "/sys/fs/cgroup/a/memory.current": "500000\n",
    "/sys/fs/cgroup/a/memory.stat": "anon 5\nfile 100000\n",
}
FIRST = {
    "/proc/self/cgroup": "4:cpu:/x\n3:memory:/c\n",
    "/sys/fs/cgroup/memory/c/memory.limit_in_bytes": "800000\n",
    "/sys/fs/cgroup/memory/c/memory.usage_in_bytes": "700000\n",
    "/sys/fs/cgroup/memory/c/memory.stat": "total_inactive_file 50000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 1000 * 1024),  # a mapped file's pages do not go to swap
        (MACHINE | SECOND, 500_000),  # a group above this process's own
        (MACHINE | FIRST, 150_000),
        (SECOND | {"/proc/meminfo": "MemAvailable: 1 kB\n"}, 1024),
    ],
)
def test_what_may_still_be_taken(
    files: dict[str, str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def text(file: Path) -> str:
        return files.get(str(file), "")

    monkeypatch.setattr(memory, "_text", text)
    assert memory.available(anonymous=False) == expected


def test_the_limit_of_a_process_counts_for_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    files = MACHINE | {"/proc/self/status": "VmData:\t 300 kB\n"}
    monkeypatch.setattr(memory, "_text", lambda file: files.get(str(file), ""))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (400 * 1024, resource.RLIM_INFINITY))
    assert memory.available() == 100 * 1024
    assert memory.available(anonymous=False) == 1000 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert memory.available() == 1024 * 1024


@pytest.mark.parametrize("where", ["cpu", "cuda", "python"])
def test_a_run_without_memory_says_what_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def greedy(*_: object) -> None:
        if where == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has")
        if where == "python":
            raise MemoryError
        torch.empty(10**15)

    begun = new_run(tmp_path / "run", seeds=2)
    monkeypatch.setattr(DOM2, "update", greedy)
    found = {"cpu": "can't allocate memory: you tried", "cuda": "CUDA out of memory", "python": "MemoryError"}
    words = rf"for --seeds 2 and --batch-size .*, found: {found[where]}.*; fewer of both, or"
    with pytest.raises(UserError, match=words) as error:
        fit.fit(begun)
    assert (error.value.code, begun.status) == (1, "failed")


def test_data_that_go_to_a_gpu_need_room_there(monkeypatch: pytest.MonkeyPatch) -> None:
    free, data = [10**9], dataset.open(tag_random())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free[0], 10**10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    fit.room(data, torch.device("cuda"))
    free[0] = 0
    fit.room(data, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"0\.00 GB of free memory on the GPU for .*, found 0\.00; --data mapped"
    ):
        fit.room(data, torch.device("cuda"))


def test_merging_parts_takes_a_fraction_of_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 250 episodes, chunks of 500; of the last part half is not wanted."""
    monkeypatch.setitem(layout._BLOCK_EPISODES, 20, 500)
    lengths = np.random.default_rng(0).integers(1, 21, 10_000)
    whole, stage = in_memory(lengths.tolist(), horizon=20), Stage("dom2/parts-v0", tmp_path)
    for folder in (stage.folder / "parts", stage.data):
        folder.mkdir(parents=True)
    for block, first in enumerate(range(0, 10_000, 250)):
        own = slice(first, first + 250)
        begin, end = whole.offsets[first], whole.offsets[first + 250]
        rows = {"observations": slice(begin + first, end + first + 250), "actions": slice(begin, end),
                "rewards": slice(begin, end), "offsets": slice(first, first + 251)}  # fmt: skip
        part = {name: whole.array(name)[rows.get(name, own)] for name in layout.layout(whole.spec, 1, 1)}
        np.savez(ragged.file_of(stage, block), **part | {"offsets": part["offsets"] - begin})
    wanted = whole.offsets[9_875]
    tracemalloc.start()
    layouts, leaves = ragged._merge(stage, whole.spec, 40, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < layouts["observations"].nbytes / 2
    for name, array in layouts.items():
        expected = whole.array(name)[: array.shape[0]]
        np.testing.assert_array_equal(zarr.read_array(stage.data, name, array), expected)
        assert leaves[name] == [digest(expected[array.rows(c)].data) for c in range(array.n_chunks)]
