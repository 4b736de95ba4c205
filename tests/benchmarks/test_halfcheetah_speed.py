"""HalfCheetah's control steps per second (five physics steps each) against bare ``mujoco.rollout``.

Timing decides no test; 80 % of the bare rate is what the environment promises.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import side_by_side

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("threads", [1, 2])
def test_halfcheetah_against_bare_rollout(record: Callable[[str, float, str], None], threads: int) -> None:
    # Taking turns, so that what else runs on the machine slows both.
    turns = [(side_by_side.bare_rollout(threads), side_by_side.halfcheetah(threads)) for _ in range(2)]
    bare, ours = (max(rates) for rates in zip(*turns, strict=True))
    name = f"{side_by_side.CHEETAHS} HalfCheetahs, {threads} thread{'s' * (threads > 1)}"
    record(f"bare mujoco.rollout, {name}", bare, "control steps/s")
    record(f"halfcheetah, {name}", ours, "control steps/s")
    record("… of bare mujoco.rollout", 100 * ours / bare, "%")


def test_published_wrapper_and_gymnasium(record: Callable[[str, float, str], None]) -> None:
    record("gymnasium-robotics mamujoco_v1, 2 agents", side_by_side.mamujoco(), "control steps/s")
    record("gymnasium HalfCheetah-v5, 1 agent", side_by_side.gymnasium_halfcheetah(), "control steps/s")
