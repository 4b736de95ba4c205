"""Check the installation, and collect what a bug report should contain."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from dom2data import envs, ids
from dom2data.errors import told


def examine() -> dict[str, Any]:
    """Versions, device, threads, folders and extras; ``problems`` lists what is missing or broken."""
    import torch

    needed, extras = requirements("dom2")
    versions = {name: version(name) for name in needed}
    problems = [f"{name}: not installed; see the README" for name, found in versions.items() if not found]
    folders = {"datasets": folder(ids.place()), "runs": folder(Path("runs").absolute())}
    closed = [(name, f["path"]) for name, f in folders.items() if f["writable"] is False]
    problems += [f"{name}: cannot write to {path}" for name, path in closed]
    environments = {name: environment(name) for name in envs.NAMES}
    problems += [f"environment {name}: {found}" for name, found in environments.items() if found != "ok"]
    return {
        "dom2": version("dom2"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": {"torch": torch.get_num_threads(), "cores": os.cpu_count()},
        "versions": versions,
        "extras": {name: version(name) for name in extras},
        "folders": folders,
        "environments": environments,
        "problems": problems,
    }


def requirements(distribution: str) -> tuple[list[str], list[str]]:
    """Names of a distribution's requirements and of its extras' requirements, from its metadata."""
    needed: list[str] = []
    extras: list[str] = []
    for line in importlib.metadata.requires(distribution) or []:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        (extras if "extra ==" in line else needed).append(name)
    return needed, extras


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def folder(path: Path | str) -> dict[str, Any]:
    """Describe a folder, and whether it, or its nearest existing parent, is writable; None for a URL."""
    if isinstance(path, str):
        return {"path": path, "exists": None, "writable": None, "free_gb": None}
    there = next(p for p in (path, *path.parents) if p.exists())
    return {
        "path": str(path),
        "exists": path.exists(),
        "writable": os.access(there, os.W_OK | os.X_OK),
        "free_gb": round(shutil.disk_usage(there).free / 1e9, 1),
    }


def environment(name: str) -> str:
    """Step an environment once, including any shipped policies in it; return ``ok`` or the error."""
    import numpy as np

    try:
        env = envs.make(name, num_envs=2)
        env.reset(0)
        env.step(np.zeros((2, env.spec.n_agents, env.spec.act_dim), np.float32))
    except Exception as error:  # any error is to be reported
        return told(error)
    return "ok"


def text(found: dict[str, Any]) -> str:
    """The block to paste into a bug report."""

    def listed(versions: dict[str, str | None]) -> str:
        return ", ".join(f"{name} {value or 'missing'}" for name, value in versions.items())

    threads = found["threads"]
    lines = [
        f"dom2          {found['dom2']}",
        f"python        {found['python']} on {found['platform']}",
        f"device        {found['device']}",
        f"threads       {threads['torch']} of {threads['cores']} cores",
        f"packages      {listed(found['versions'])}",
        f"extras        {listed(found['extras'])}",
        *(f"{name:<13} {f['path']}, {_state(f)}" for name, f in found["folders"].items()),
        f"environments  {', '.join(f'{name} {state}' for name, state in found['environments'].items())}",
        *(f"problem       {problem}" for problem in found["problems"] or ["none"]),
    ]
    return "\n".join(lines)


def _state(its: dict[str, Any]) -> str:
    if its["writable"] is None:
        return "a URL, not checked"
    return (
        f"{'exists' if its['exists'] else 'does not exist yet'}, "
        f"{'writable' if its['writable'] else 'NOT WRITABLE'}, {its['free_gb']} GB free"
    )
