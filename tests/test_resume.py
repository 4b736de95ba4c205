"""Runs that go on after they have ended, or that cannot, and then are as they were."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import new_run

from dom2 import checkpoint, fit

torch.set_num_threads(1)


def test_a_resumed_run_keeps_its_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, loaded, load = new_run(tmp_path / "run", updates=2), [], checkpoint.load_weights
    fit.fit(begun)
    begun.amend(updates=3)

    def watched(*given: Any) -> tuple[int, dict[str, torch.Tensor]]:
        found = load(*given)
        loaded.extend(map(weakref.ref, found[1].values()))
        return found

    monkeypatch.setattr(checkpoint, "load_weights", watched)
    alive: list[bool] = []
    fit.fit(begun, lambda update, values: alive.extend(each() is not None for each in loaded))
    assert alive
    assert not any(alive)
