"""How much memory there is, read from what the system says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from dom2data import memory

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
