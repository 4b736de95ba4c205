"""A real Ray cluster of two hosts (network namespaces), one of which is lost in mid-generate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
HEAD, OTHER, PORT = "10.213.7.1", "10.213.7.2", "6391"
STEPS = "6000000"
"""96 blocks"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"),
]


def inside(host: str, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", host, *words], capture_output=True, text=True, timeout=500, **how
    )


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Two hosts joined by a cable, with a Ray node of one core on each."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)  # there is nobody else on this cable
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    names = f"head{os.getpid()}", f"other{os.getpid()}"
    cable = [f"{name}c" for name in ("h", "o")]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ends = [[end, "netns", name] for end, name in zip(cable, names, strict=True)]
        ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for name, end, address in zip(names, cable, (HEAD, OTHER), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        start = (str(BIN / "ray"), "start", "--num-cpus", "1", "--disable-usage-stats", "--node-ip-address")
        first = inside(
            names[0], *start, HEAD, "--head", "--port", PORT, "--include-dashboard", "false",
            "--temp-dir", f"/tmp/ray{os.getpid()}",
        )  # fmt: skip
        assert first.returncode == 0, first.stdout + first.stderr
        second = inside(names[1], *start, OTHER, "--address", f"{HEAD}:{PORT}")
        assert second.returncode == 0, second.stdout + second.stderr
        yield names
    finally:
        for name in names:
            lose(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def lose(host: str) -> int:
    """Kill every process of a host at once; how many there were."""
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
    subprocess.run(["kill", "-9", *pids], capture_output=True)
    return len(pids)


def test_a_host_is_lost_in_mid_generate(hosts: tuple[str, str], tmp_path: Path) -> None:
    words = [str(BIN / "dom2data"), "generate", "--env", "tag", "--quality", "medium", "--json"]
    words += ["--steps", STEPS]
    local = subprocess.run([*words, "--root", str(tmp_path / "one")], capture_output=True, text=True)
    assert local.returncode == 0, local.stderr
    root = tmp_path / "two"
    cluster = ["--root", str(root), "--executor", "ray", "--address", f"{HEAD}:{PORT}"]
    process = subprocess.Popen(
        ["ip", "netns", "exec", hosts[0], *words, *cluster],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    blocks = root / ".dom2data/stage/dom2/tag-medium-v0/blocks"
    deadline = time.monotonic() + 300
    while len(list(blocks.glob("*.json"))) < 30:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert lose(hosts[1]) > 3
    done_then = len(list(blocks.glob("*.json")))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-2_000:]
    assert done_then < 96
    assert json.loads(out[out.index("{") :])["hash"] == json.loads(local.stdout)["hash"]
    check = subprocess.run(
        [str(BIN / "dom2data"), "verify", "tag-medium", "--root", str(root)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr
