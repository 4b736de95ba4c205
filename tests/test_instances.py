"""A user's own environment: from when its instances are used to when they are closed."""

from __future__ import annotations

from pathlib import Path

import meeting
import numpy as np

from dom2data import collect, envs

NOTED = """

class Noted(Meet):
    def reset(self, seed=None, options=None):
        vars(self).setdefault("seeds", []).append(seed)
        return super().reset(seed, options)

    def observed(self):  # where the first agent is: how often this instance was reset
        self.places[0] = len(self.seeds)
        return super().observed()


def noted():
    return Noted()
"""


def written(folder: Path, more: str) -> str:
    """The file of the page with ``more`` behind it."""
    file = folder / "instances.py"
    file.write_text(meeting.code() + more)
    return str(file)


def test_recorded_episodes_are_the_first_of_their_instances(tmp_path: Path) -> None:
    name = written(tmp_path, NOTED) + ":noted"
    block = collect.collect_block(collect.Job(name, (None,), (3,), 0.0, 0, 0))
    np.testing.assert_array_equal(block["observations"][:, 0, 0], 1.0)


def test_a_row_without_an_episode_is_over(tmp_path: Path) -> None:
    env = envs.make(meeting.written(tmp_path), 2)
    step = env.step(np.zeros((2, 2, 1), np.float32))
    assert step.truncated.all()
    assert not step.rewards.any()
