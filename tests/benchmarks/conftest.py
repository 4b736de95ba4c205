"""Collects measured rows and prints them as one Markdown table at the end (``make bench``)."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import pytest

import dom2_cli.learn  # noqa: F401  (sets how torch's idle threads wait, as the command does)

Record = Callable[[str, float, str], None]
ROWS = pytest.StashKey[list[tuple[str, float, str]]]()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """``record(what, value, unit)`` adds a row. The value decides nothing."""
    rows = request.config.stash.setdefault(ROWS, [])
    return lambda what, value, unit: rows.append((what, value, unit))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        write = terminalreporter.write_line
        write(f"\n| measured on {machine} | value | unit |\n|---|---:|---|")
        for what, value, unit in rows:
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            write(f"| {what} | {value:,.{digits}f} | {unit} |")
