"""A user's own environment: from when its instances are used to when they are closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import meeting
import numpy as np
import pytest

from dom2data import collect, envs, generate, named
from dom2data.check_env import check
from dom2data.envs import foreign
from dom2data.envs.joint import JointEnv
from dom2data.envs.parallel import ParallelView
from dom2data.errors import UserError
from dom2data.executors import Processes

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


def test_a_last_observation_is_not_made_up(tmp_path: Path) -> None:
    env = envs.make(meeting.written(tmp_path, meeting.SILENT_END))
    env.reset(seed=3)
    still = np.zeros((1, 2, 1), np.float32)
    for _ in range(19):
        assert env.step(still).obs.all()
    with pytest.raises(UserError, match="step 20: expected what left observes, also at its end, found n"):
        env.step(still)


def test_an_edited_file_wants_another_python(tmp_path: Path) -> None:
    """What has begun keeps code and fingerprint, and nothing begins with the old code."""
    name = meeting.written(tmp_path)
    imported = envs.spec(name).fingerprint
    meeting.written(tmp_path, ("distance < 0.05", "distance < 0.06"))
    for begin in (envs.spec, check):
        with pytest.raises(UserError, match=r"meet\.py as it was imported, found it edited since; restart"):
            begin(name)
    assert envs.make(name).spec.fingerprint == imported
    meeting.written(tmp_path)
    assert envs.spec(name).fingerprint == imported


def test_workers_make_no_data_in_another_environment(tmp_path: Path) -> None:
    """They import the file when they start, which is after this edit."""
    name = meeting.written(tmp_path)
    plan = generate.plan(name, "random", steps=12_000, root=tmp_path)
    meeting.written(tmp_path, ("-float(distance)", "-2 * float(distance)"))
    says = rf"meet\.py:make: .* as planned \(fingerprint {plan.spec.fingerprint}\), found another"
    with pytest.raises(UserError, match=says) as error:
        generate.generate(plan, executor=Processes(2))
    assert error.value.code == 3
    assert not (tmp_path / "dom2").exists()
    meeting.written(tmp_path)
    assert generate.generate(plan, executor=Processes(2)).spec == plan.spec


def joint(name: str) -> None:
    named.remember(name)
    env = JointEnv(name)
    env.reset(seed=0, options={"rows": 3})
    env.close()


@pytest.mark.parametrize(
    "use",
    [
        envs.spec,
        check,
        lambda name: collect.collect_block(collect.Job(name, (None,), (3,), 0.0, 0, 0)),
        lambda name: envs.close(envs.make(name, 2, shift="noise")),
        lambda name: ParallelView(name).close(),
        joint,
    ],
    ids=["spec", "check", "block", "shifted", "parallel", "joint"],
)
def test_instances_are_closed(tmp_path: Path, use: Callable[[str], Any]) -> None:
    name = meeting.written(tmp_path, meeting.HELD)
    use(name)
    assert foreign.load(name)[0].Meet.held == []


@pytest.mark.parametrize("fault", ["self.steps += 1", "self.possible_agents, self.agents ="])
def test_instances_are_closed_when_one_fails(tmp_path: Path, fault: str) -> None:
    """There are three: in the first step, or while the third is built."""
    change = (fault, f"if len(self.held) > 2: raise KeyError\n        {fault}")
    name = meeting.written(tmp_path, meeting.HELD, change)
    with pytest.raises(UserError, match="found KeyError"):
        collect.collect_block(collect.Job(name, (None,), (3,), 0.0, 0, 0))
    assert len(foreign.load(name)[0].Meet.held) == (fault != "self.steps += 1")  # the one that never was


def test_an_instance_that_does_not_close_is_one_line(tmp_path: Path) -> None:
    broken = ("self.held.remove(self)", "self.window.close()")
    name = meeting.written(tmp_path, meeting.HELD, broken)
    with pytest.raises(UserError, match=r"meet\.py:make to close, found AttributeError: .*; mend") as error:
        envs.spec(name)
    assert error.value.code == 1
