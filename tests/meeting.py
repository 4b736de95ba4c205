"""The environment of docs/your-environment.md as a file, whole or with a line of it changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pages
import torch

from dom2_policies.policy import Actor, save_actor

HELD = (
    "def __init__(self):",
    "held = []\n\n    def close(self):\n        self.held.remove(self)\n\n"
    "    def __init__(self):\n        self.held.append(self)",
)
"""A change: the class has the list ``held`` of its instances that are not closed."""

SILENT_END = ("self.observed(),\n", "self.observed() if self.agents else {},\n")
"""A change: the last step tells no observations."""


def code() -> str:
    """The page's."""
    return pages.python("your-environment.md")


def written(folder: Path, *changes: tuple[str, str]) -> str:
    """The environment's name, ``<folder>/meet.py:make``, once its file is written there."""
    text = code()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "meet.py"
    file.write_text(text)
    return f"{file}:make"


def checkpoints(folder: Path, name: str) -> Path:
    """A folder as ``dom2data train`` writes it, of untrained policies."""
    folder.mkdir()
    policies = {}
    for i, label in enumerate(("medium", "expert")):
        generators = [torch.Generator().manual_seed(i)]
        file = folder / f"{label}.safetensors"
        save_actor(Actor((2, 8, 1), 2, generators), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        policies[label] = {"file": file.name, "sha256": digest, "env_steps": 400}
    entry = {"policies": policies, "noise": 0.1, "references": {"random": -9.0, "expert": -5.0}}
    (folder / "zoo.json").write_text(json.dumps({name: entry}))
    return folder
