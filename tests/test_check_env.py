"""``dom2data check-env``: a good environment passes, and each fault is told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import meeting
import pytest
from click.testing import Result
from commands import dom2data

from dom2data.check_env import check


def check_env(*words: str) -> Result:
    return dom2data("check-env", *words)


def test_the_environment_of_the_page_is_without_findings(tmp_path: Path) -> None:
    name = meeting.written(tmp_path)
    result = check_env(name)
    assert result.exit_code == 0, result.output
    assert "meet_v0-<quality>" in result.stdout
    assert "steps/s" in result.stdout
    printed = json.loads(check_env(name, "--json", "--episodes", "2").stdout)
    assert printed["findings"] == []
    assert (printed["horizon"], printed["action"]) == (20, 1)


def test_environments_of_the_project_are_without_findings() -> None:
    result = check_env("tag")
    assert result.exit_code == 0, result.output


FAULTS = {
    "discrete actions": (("Box(-0.1, 0.1, (1,), np.float32)", "__import__('gymnasium').spaces.Discrete(3)"),
                         "left: expected a Box of floats as action space, found Discrete(3)"),
    "unbounded actions": (("Box(-0.1, 0.1,", "Box(-np.inf, np.inf,"), "left: expected finite action bounds"),
    "two action sizes": (("Box(-0.1, 0.1, (1,)", "Box(-0.1, 0.1, (len(agent),)"),
                         "expected action spaces of one size, found sizes [4, 5]"),
    "integer observations": (("(2,), np.float32)", "(2,), np.int32)"), "as observation space"),
    "no horizon": (("    horizon = 20", "    horizon = None"),
                   "expected the longest episode in steps, found none"),
    "no agents": (('["left", "right"], []', "[], []"), "expected possible_agents, found none"),
    "another dtype": (("np.array(p, np.float32)", "np.array(p, np.float64)"),
                      "expected observations of float32(2,), found float64(2,)"),
    "outside the space": (("Box(-np.inf, np.inf, (2,)", "Box(-0.01, 0.01, (2,)"),
                          "expected observations in Box(-0.01, 0.01"),
    "a reward that is not finite": (("-float(distance)", "float('nan')"),
                                    "expected a finite number as reward"),
    "a reward that is missing": (("-float(distance) for agent in present", "-1.0 for agent in present[1:]"),
                                 "expected rewards of every agent present, found none of left"),
    "a last observation that is missing": (meeting.SILENT_END,
                                           "expected observations of every agent present, found none"),
    "no end": (("self.steps == self.horizon", "False"), "expected the end of an episode within 20 steps"),
    "an unseeded start": (("default_rng(seed)", "default_rng()"),
                          "expected equal episodes for equal seeds, found a difference at step 0"),
    "one start": (("default_rng(seed)", "default_rng(0)"), "expected other starts for other seeds"),
    "unseeded steps": (("self.places += ", "self.places += 0.01 * np.random.default_rng().normal() + "),
                       "found a difference at step 1"),
    "something left over": (("self.places = ", "self.places = getattr(self, 'places', 0) / 9 + "),
                            "expected a second episode as a new instance plays it, found a diff"),
    "actions modified": (("self.steps += 1\n", "self.steps += 1; actions['left'] *= 2\n"),
                         "expected actions to be left alone"),
    "an exception": (("self.steps += 1", "self.steps += 1 if self.steps < 3 else None"),
                     "+=: 'int' and 'NoneType' at step 4 (meet.py, line"),
    "an agent that stays": (("[] if met or late else self.agents", "self.agents"),
                            "expected left to leave env.agents when it ends"),
    "an agent that vanishes": (("[] if met or late", "[] if self.steps == 2"),
                               "to end by termination or truncation"),
    "an agent that is late": (("list(self.possible_agents), 0", "self.possible_agents[:1], 0"),
                              "expected every agent in env.agents after reset, found none of right"),
    "a reward said to be shared": (("-float(distance)", "-len(agent)"), "expected one reward for all"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(tmp_path: Path, fault: str) -> None:
    change, says = FAULTS[fault]
    declared = [("horizon = 20", "shared_reward = True\n    horizon = 20")] if "shared" in fault else []
    name = meeting.written(tmp_path, change, *declared)
    result = check_env(name)
    assert result.exit_code == 3, result.output
    findings = [line for line in result.stdout.splitlines() if "expected" in line]
    assert any(says in line for line in findings), result.stdout
    assert all(", found " in line for line in findings)
    assert result.stderr.splitlines()[-1].startswith(
        f"error: {name}: expected no findings, found {len(findings)}"
    )


@pytest.mark.parametrize(
    "change",
    [
        ("self.steps == self.horizon", "self.steps == 5 + self.odd"),
        ("bool(met) for", "bool(met or late and self.odd) for"),
    ],
    ids=["when", "how"],
)
def test_ends_follow_from_the_seed(tmp_path: Path, change: tuple[str, str]) -> None:
    """Every other instance ends a step later, or is terminated."""
    made = (
        "def make(made=[]):\n    made.append(Meet())\n    made[-1].odd = len(made) % 2\n    return made[-1]"
    )
    _, findings = check(meeting.written(tmp_path, change, ("def make():\n    return Meet()", made)))
    step = 5 if "5" in change[1] else 20
    assert len(findings) == 1
    assert f"expected equal episodes for equal seeds, found a difference at step {step};" in findings[0]


def test_what_is_not_finite_follows_from_the_seed_all_the_same(tmp_path: Path) -> None:
    _, findings = check(meeting.written(tmp_path, ("-float(distance)", "float('nan')")))
    assert len(findings) == 1
    assert "expected a finite number as reward" in findings[0]


def test_pettingzoo_s_own_test_is_run(tmp_path: Path) -> None:
    _, findings = check(
        meeting.written(tmp_path, ("    @cache\n    def observation_space", "    def observation_space"))
    )
    assert len(findings) == 1
    assert "expected pettingzoo.test.parallel_api_test to pass" in findings[0]


def test_a_script_that_ends_python_does_not_end_the_command(tmp_path: Path) -> None:
    result = check_env(meeting.written(tmp_path, ("def make():", "raise SystemExit(0)\n\n\ndef make():")))
    assert result.exit_code == 2
    assert "that can be imported, found SystemExit: 0" in result.stderr


def test_a_wrong_name_is_usage() -> None:
    assert check_env("no_such_module:make").exit_code == 2
    assert check_env("tga").exit_code == 2
    assert "found 'mine.py'; name its callable, mine.py:make" in check_env("mine.py").stderr
