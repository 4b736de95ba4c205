"""One process that draws minibatches, in as much memory as it is told, and prints how that went as JSON.

    python drawing.py ROOT DATASET memory|mapped|stream none|data|cgroup BYTES SECONDS BATCH

``data`` limits what is allocated (RLIMIT_DATA), ``cgroup`` all memory, the system's copies of files as well.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GROUPS = {
    Path("/sys/fs/cgroup/memory/dom2-benchmark"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup/dom2-benchmark"): "memory.max",
}
"""of version 1 and 2, and the file with the limit"""


def enter(limit: int) -> bool:
    """Put this process into a control group with so much memory; False where that cannot be done."""
    for group, file in GROUPS.items():
        try:
            group.mkdir(exist_ok=True)
            if (group / file).exists():
                (group / file).write_text(str(limit))
                (group / "cgroup.procs").write_text(str(os.getpid()))
                return True
        except OSError:
            continue
    return False


def leave() -> None:
    """Remove the group; its processes have ended."""
    for group in GROUPS:
        if group.is_dir():
            group.rmdir()


def status(name: str) -> int:
    """Bytes that the system says of this process, such as VmHWM, the peak of resident memory."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def main(
    root: str, name: str, data: str, kind: str, limit: int, seconds: float, batch: int
) -> dict[str, Any]:
    if kind == "cgroup" and not enter(limit):
        return {}
    import resource

    import torch

    from dom2data import cache, dataset, stream, tables
    from dom2data.read_ahead import ReadAhead
    from dom2data.sampler import Sampler, Thresholds
    from dom2data.store import zarr  # noqa: F401  (its import is not what is measured)

    torch.set_num_threads(1)
    if kind == "cgroup":  # what another process has read is not counted as this one's
        for file in Path(root).rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if kind == "data":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    found = dataset.open(name, root)
    sources: dict[str, Callable[[], Any]] = {
        "memory": lambda: tables.in_memory(found, "cpu"),
        "mapped": lambda: cache.mapped(found, cache.folder(root)),
        "stream": lambda: stream.Blocks(found),
    }
    source = sources[data]()
    sampler: Any = Sampler(found, Thresholds(), batch, [torch.Generator().manual_seed(0)], source=source)
    ahead = data == "mapped" and source.files is not None
    if ahead:
        sampler = ReadAhead(sampler, source, source.files)
    for _ in range(2):  # the first time, pages are mapped and the disk's own cache is filled
        drawn, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            sampler.sample()
            drawn += 1
    peak, own = status("VmHWM"), status("RssAnon")
    return {"seconds": spent / drawn, "peak": peak, "own": own, "read_ahead": ahead}


if __name__ == "__main__":
    *words, limit, seconds, batch = sys.argv[1:]
    print(json.dumps(main(*words, int(limit), float(seconds), int(batch))))  # type: ignore[call-arg]
