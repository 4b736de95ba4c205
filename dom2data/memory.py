"""How much memory is still available to this process."""

from __future__ import annotations

import re
from pathlib import Path

from dom2data.errors import FAILED, UserError

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available(anonymous: bool = True) -> int | None:
    """Return the bytes left until the machine or the control group is full; None if unknown.

    ``anonymous``: for arrays, which may be swapped out and are limited by ``RLIMIT_DATA``, rather than for
    mapped files.
    """
    found = [_machine(swap=anonymous), *_control_groups(), *([_limit()] if anonymous else [])]
    return min((each for each in found if each is not None), default=None)


def require(nbytes: int, what: str, remedy: str, where: str = "memory", free: int | None = None) -> None:
    """Raises UserError (code 1), ending with the ``remedy``, if ``what`` needs more than is ``free``."""
    free = available() if free is None else free
    if free is not None and nbytes > free:
        raise UserError(
            f"expected {nbytes / 1e9:,.2f} GB of free {where} for {what}, found {free / 1e9:,.2f}; {remedy}",
            FAILED,
        )


def lacking(error: Exception) -> bool:
    """Whether an error of Python, NumPy or PyTorch, on any device, means out of memory."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    )


def _machine(swap: bool) -> int | None:
    """Memory that is free or can be freed; with ``swap``, plus the free swap space."""
    names = "MemAvailable|SwapFree" if swap else "MemAvailable"
    lines = re.findall(rf"^(?:{names}):\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    return 1024 * sum(map(int, lines)) if lines else None


def _limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    used = re.search(r"^VmData:\s+(\d+) kB", _text(Path("/proc/self/status")), re.MULTILINE)
    return None if limit == resource.RLIM_INFINITY or not used else max(0, limit - 1024 * int(used[1]))


def _control_groups() -> list[int]:
    """Bytes left in every control group, version 1 or 2, of this process, and in their ancestors."""
    found = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, limit, used = (
            (_CONTROL_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else (_CONTROL_GROUPS, "memory.max", "memory.current")
        )
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            most, now = _text(folder / limit).strip(), _text(folder / used).strip()
            if most.isdigit() and now.isdigit():
                cached = re.search(r"^(?:total_inactive_)?file (\d+)", _text(folder / "memory.stat"), re.M)
                found.append(max(0, int(most) - int(now) + (int(cached[1]) if cached else 0)))
            if folder == base:
                break
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
