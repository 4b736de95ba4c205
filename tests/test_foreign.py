"""A user's own environment: what is read off it, and data whose episodes end early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import meeting
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from commands import dom2data
from hypothesis import given
from hypothesis import strategies as st

from dom2_cli import data, learn
from dom2_policies import td3
from dom2data import collect, envs, ragged, training
from dom2data import generate as make
from dom2data.check_env import check
from dom2data.dataset import Dataset
from dom2data.envs import foreign
from dom2data.envs.foreign import ForeignEnv
from dom2data.errors import UserError
from dom2data.executors import Processes
from dom2data.sampler import Sampler, Thresholds
from dom2data.verify import verify

STEPS = 700
MANY = 12_000
"""Three blocks of up to 5,000 steps, or four: how many is known only when three have been played."""


@pytest.fixture
def meet(tmp_path: Path) -> str:
    return meeting.written(tmp_path)


def generated(name: str, root: Path, quality: str = "random", **how: Any) -> Dataset:
    options = {key: how.pop(key) for key in ("executor", "force", "progress") if key in how}
    return make.generate(make.plan(name, quality, **({"steps": STEPS} | how), root=root), **options)


def test_the_spec_is_read_off_the_environment(meet: str) -> None:
    spec = envs.spec(meet)
    assert (spec.env_id, spec.agent_names, spec.obs_dims) == ("meet_v0", ("left", "right"), (2, 2))
    assert (spec.act_dim, spec.act_low, spec.act_high) == (1, -1.0, 1.0)
    assert (spec.horizon, spec.reward) == (20, "individual")
    assert spec.facts["make"] == "meet:make"
    assert json.loads(json.dumps(spec.facts)) == spec.facts


def test_the_fingerprint_follows_the_file(tmp_path: Path, meet: str) -> None:
    (tmp_path / "other").mkdir()
    same, edited = tmp_path / "other", tmp_path / "edited"
    edited.mkdir()
    assert envs.spec(meeting.written(same)).fingerprint == envs.spec(meet).fingerprint
    changed = meeting.written(edited, ("distance < 0.05", "distance < 0.06"))
    assert envs.spec(changed).fingerprint != envs.spec(meet).fingerprint


def test_rows_are_the_environment_played_by_hand(meet: str) -> None:
    env = ForeignEnv(meet, num_envs=3)
    seeds = np.random.default_rng(5)
    obs = env.reset(5)
    alone = [foreign.build(meet) for _ in range(3)]
    for row, one in enumerate(alone):
        first, _ = one.reset(seed=int(seeds.integers(2**31)))
        np.testing.assert_array_equal(obs[row], np.stack([first["left"], first["right"]]))
    rng = np.random.default_rng(0)
    ended = np.zeros(3, bool)
    for _ in range(20):
        actions = rng.uniform(-1, 1, (3, 2, 1)).astype(np.float32)
        given = actions.copy()
        step = env.step(actions)
        np.testing.assert_array_equal(actions, given)
        for row, one in enumerate(alone):
            if ended[row]:
                np.testing.assert_array_equal(step.obs[row], obs[row])
                assert not step.rewards[row].any()
                continue
            seen, earned, terminated, truncated, _ = one.step(
                dict(zip(one.agents, 0.1 * given[row], strict=True))
            )
            np.testing.assert_allclose(step.obs[row], np.stack([seen["left"], seen["right"]]), atol=1e-6)
            np.testing.assert_allclose(step.rewards[row], [earned["left"], earned["right"]], atol=1e-6)
            assert (step.terminated[row], step.truncated[row]) == (terminated["left"], truncated["left"])
        ended, obs = step.terminated | step.truncated, step.obs
    assert ended.all()


def test_resetting_some_rows_leaves_the_others(meet: str) -> None:
    env = ForeignEnv(meet, num_envs=3)
    before = env.reset(0)
    after = env.reset(mask=np.array([False, True, False]))
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] != before[1]).any()


def test_policies_are_trained_and_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``dom2data train --env module:make``, short; ``generate --checkpoints`` takes what it writes."""
    meet = meeting.written(tmp_path, meeting.HELD)
    learner = td3.Config(hidden=16, batch_size=64, random_steps=300, steps_per_update=50)
    short = training.Recipe(learner, steps=4_000, num_envs=20, waves_per_evaluation=1, evaluation_episodes=20,
                            reference_episodes=20)  # fmt: skip
    monkeypatch.setitem(training.RECIPES, meet, short)
    words = ["train", "--env", meet, "--out", str(tmp_path / "zoo")]
    trained = dom2data(*words)
    assert trained.exit_code == 0, trained.output
    entry = json.loads((tmp_path / "zoo/zoo.json").read_text())[meet]
    assert set(entry["policies"]) == {"medium", "expert"}
    assert entry["fingerprint"] == envs.spec(meet).fingerprint
    assert entry["policies"]["expert"]["return"] > entry["references"]["random"]
    for quality in ("expert", "random-medium"):
        made = generated(meet, tmp_path / "root", quality, checkpoints_in=tmp_path / "zoo")
        assert verify(made)
        assert made.manifest["policies"].keys() == ({"expert"} if quality == "expert" else {"medium"})
    words = ["references", "--env", meet, "--checkpoints", str(tmp_path / "zoo")]
    measured = dom2data(*words)
    assert measured.exit_code == 0, measured.output
    assert foreign.load(meet)[0].Meet.held == []


LEAVES = """

class Leaves(Meet):
    def step(self, actions):
        whole = {agent: actions.get(agent, np.zeros(1)) for agent in self.possible_agents}
        self.agents, present = list(self.possible_agents), self.agents
        observed, *rest = super().step(whole)
        results = [{agent: values[agent] for agent in present} for values in (observed, *rest)]
        if self.steps == 2:
            results[2]["left"] = True
        self.agents = [a for a in present if self.agents and not results[2][a]]
        return tuple(results)


def leaves():
    return Leaves()
"""


def test_an_agent_that_leaves_is_shown_zeros_until_the_episode_ends(tmp_path: Path) -> None:
    file = tmp_path / "leaves.py"
    file.write_text(meeting.code() + LEAVES)
    env = ForeignEnv(f"{file}:leaves")
    env.reset(3)
    still = np.zeros((1, 2, 1), np.float32)
    steps = [env.step(still) for _ in range(20)]
    assert steps[1].rewards[0, 0] != 0
    assert steps[1].obs[0, 0].any()  # its last observation
    assert not any(step.obs[0, 0].any() or step.rewards[0, 0] for step in steps[2:])
    assert all(step.obs[0, 1].any() and step.rewards[0, 1] for step in steps)
    assert [bool(step.truncated[0]) for step in steps] == [False] * 19 + [True]
    assert not steps[-1].terminated[0]


def test_a_shared_reward_is_that_of_the_agents_who_are_left(tmp_path: Path) -> None:
    file = tmp_path / "leaves.py"
    file.write_text(meeting.code() + LEAVES + "\nMeet.shared_reward = True\n")
    env = ForeignEnv(f"{file}:leaves")
    env.reset(3)
    rewards = np.stack([env.step(np.zeros((1, 2, 1), np.float32)).rewards[0] for _ in range(20)])
    assert (rewards < 0).all()
    np.testing.assert_array_equal(rewards[:, 0], rewards[:, 1])
    assert check(f"{file}:leaves", episodes=1)[1] == []


def test_what_lasts_longer_than_the_horizon_is_truncated(tmp_path: Path) -> None:
    name = meeting.written(tmp_path, ("self.steps == self.horizon", "False"))
    env = ForeignEnv(name)
    env.reset(3)
    steps = [env.step(np.zeros((1, 2, 1), np.float32)) for _ in range(20)]
    assert [bool(step.truncated[0]) for step in steps] == [False] * 19 + [True]


def test_published_environments_fit_and_their_bounds_are_mapped(tmp_path: Path) -> None:
    file = tmp_path / "particles.py"
    file.write_text(
        "from mpe2 import simple_spread_v3\n"
        "def make(continuous=True):\n"
        "    return simple_spread_v3.parallel_env(continuous_actions=continuous)\n"
        "def discrete():\n"
        "    return make(False)\n"
    )
    spec = envs.spec(f"{file}:make")
    assert (spec.env_id, spec.n_agents, spec.obs_dim, spec.act_dim) == ("simple_spread_v3", 3, 18, 5)
    assert spec.horizon == 25
    space = foreign.build(f"{file}:make").action_space("agent_0")
    actions = foreign.rescaled(np.array([-1, 0, 1, 0.5, -0.5], np.float32), space)
    np.testing.assert_allclose(actions, [0, 0.5, 1, 0.75, 0.25])
    with pytest.raises(UserError, match="agent_0: expected a Box of floats as action space, found Discrete"):
        envs.spec(f"{file}:discrete")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("self.observed()", "step 0: expected observations and infos from reset, found dict;"),
        ("{'left': np.zeros(2)}, {}", "step 0: expected what right observes, who is present, found nothing;"),
    ],
)
def test_a_reset_that_goes_wrong_names_its_seed(tmp_path: Path, given: str, says: str) -> None:
    change = ("self.observed(), {agent: {} for agent in self.agents}", given)
    with pytest.raises(UserError, match=rf"seed \d+, {says}") as error:
        ForeignEnv(meeting.written(tmp_path, change)).reset(0)
    assert error.value.code == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("-float(distance)", "float('nan')"), r"seed \d+, step 1: expected finite rewards"),
        (
            ("self.steps += 1", "raise KeyError('x')"),
            r"step 0: expected an environment that goes on, found KeyError: 'x' \(meet\.py, line \d+\)",
        ),
        (
            ("self.observed(),\n", "{a: np.zeros(3) for a in self.agents},\n"),
            "expected 2 finite numbers observed",
        ),
        (("bool(met)", "False"), "expected left to end by termination or truncation, found it gone"),
        (("-float(distance)", "np.ones(2)"), "expected finite rewards, a number each, found {'left': array"),
        (("-float(distance)", "None"), "expected finite rewards, a number each, found {'left': None"),
        (("            {agent: {} for agent in present},\n", ""), "five dictionaries from step, found 4;"),
        (("self.observed(),\n", "{'left': np.zeros(2)},\n"), "what right observes, who is present, found no"),
    ],
)
def test_a_row_that_goes_wrong_names_seed_and_step(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    met_at_once = [("distance < 0.05", "True")] if "met" in change[0] else []
    env = ForeignEnv(meeting.written(tmp_path, change, *met_at_once))
    env.reset(0)
    with pytest.raises(UserError, match=says) as error:
        env.step(np.zeros((1, 2, 1), np.float32))
    assert error.value.code == 1


def test_a_shared_reward_has_to_be_one(tmp_path: Path) -> None:
    declared = ("horizon = 20", "shared_reward = True\n    horizon = 20")
    assert envs.spec(meeting.written(tmp_path, declared)).reward == "shared"
    (tmp_path / "b").mkdir()
    env = ForeignEnv(meeting.written(tmp_path / "b", declared, ("-float(distance)", "len(agent)")))
    env.reset(0)
    with pytest.raises(UserError, match="expected one reward for all"):
        env.step(np.zeros((1, 2, 1), np.float32))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:make", "found ModuleNotFoundError"),
        ("no/such/file.py:make", "found FileNotFoundError"),
        ("json:dumper", "expected a callable 'dumper' in .*json/__init__.py, found none"),
        ("json:__doc__", "found str __doc__"),
        ("json:dumps", "found TypeError"),
        ("dom2data.errors:Exception", "expected a callable 'Exception'"),
        (
            "builtins:dict",
            "expected builtins:dict.. to return a pettingzoo.ParallelEnv, found <class 'dict'>",
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        envs.make(name)
    assert error.value.code == 2
    assert "\n" not in str(error.value)


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path, meet: str) -> None:
    one = generated(meet, tmp_path / "one", steps=MANY)
    assert generated(meet, tmp_path / "two", steps=MANY, executor=Processes(2)).hash == one.hash
    assert verify(one)
    assert MANY <= len(one) < MANY + one.lengths[-1]
    assert len(set(one.lengths.tolist())) > 5
    for episode in one.episodes():
        met = abs(episode.observations[1:, 0, 1]) < 0.05
        assert episode.terminated == met[-1]
        assert not met[:-1].any()
        assert episode.truncated == (len(met) == 20 and not met[-1])
    assert one.manifest["env"] == meet


def test_fewer_steps_are_the_beginning_of_more(tmp_path: Path, meet: str) -> None:
    more, fewer = (generated(meet, tmp_path / str(n), steps=n) for n in (STEPS, 300))
    n = fewer.n_episodes
    np.testing.assert_array_equal(fewer.returns, more.returns[:n])
    np.testing.assert_array_equal(fewer.array("actions"), more.array("actions")[: len(fewer)])
    np.testing.assert_array_equal(fewer.array("observations"), more.array("observations")[: len(fewer) + n])


def test_an_interrupted_run_continues_and_a_damaged_part_is_made_again(
    tmp_path: Path, meet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, blocks, real = (
        generated(meet, tmp_path / "whole", steps=MANY).hash,
        [],
        collect.collect_block,
    )

    def interrupted(job: collect.Job) -> Any:
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(job.block)
        return real(job)

    monkeypatch.setattr(collect, "collect_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generated(meet, tmp_path, steps=MANY)
    assert not (tmp_path / "dom2").exists()
    part = tmp_path / ".dom2data/stage/dom2/meet_v0-random-v0/parts/0.npz"
    part.write_bytes(part.read_bytes()[:-7])
    blocks.clear()
    monkeypatch.setattr(collect, "collect_block", lambda job: blocks.append(job.block) or real(job))
    assert generated(meet, tmp_path, steps=MANY).hash == undisturbed
    assert blocks[0] == 0
    assert 1 not in blocks
    assert not part.exists()


def test_the_blocks_to_play_next() -> None:
    assert ragged.missing({}, 900, 500) == [0, 1]
    assert ragged.missing({0: 100, 1: 200}, 900, 500) == [2, 3, 4, 5]
    assert ragged.missing({0: 100, 2: 800}, 900, 500) == [1]
    assert ragged.missing({0: 500, 1: 400}, 900, 500) == []


@given(st.lists(st.integers(0, 40), min_size=1, max_size=3).filter(any))
def test_any_beginning_of_a_block_holds_its_share_of_every_policy(counts: list[int]) -> None:
    source = np.repeat(np.arange(len(counts)), counts)[collect.interleaved(counts)]
    for part, count in enumerate(counts):
        seen = np.cumsum(source == part)
        fair = count / sum(counts) * np.arange(1, len(source) + 1)
        assert abs(seen - fair).max() <= 1


def test_other_qualities_act_by_the_checkpoints_of_a_folder(tmp_path: Path, meet: str) -> None:
    folder = meeting.checkpoints(tmp_path / "zoo", meet)
    found = generated(meet, tmp_path, "random-medium", checkpoints_in=folder)
    assert abs(np.diff(np.bincount(found.array("source")))[0]) <= 1
    assert found.manifest["policies"]["medium"]["env_steps"] == 400
    assert verify(found)
    with pytest.raises(UserError, match="--checkpoints FOLDER uses them"):
        make.plan(meet, "medium")


def test_samplers_stop_at_terminations_alone(tmp_path: Path, meet: str) -> None:
    found = generated(meet, tmp_path)
    sampler = Sampler(found, Thresholds("none"), 4096, [torch.Generator().manual_seed(0)])
    batch, actions = sampler.sample(), found.array("actions").transpose(1, 0, 2)
    at = [{action.tobytes(): step for step, action in enumerate(own)} for own in actions]
    step = np.array([[a[x.tobytes()] for x in m] for a, m in zip(at, batch.actions.numpy(), strict=True)])
    episode = np.searchsorted(found.offsets, step, side="right") - 1
    ends = (step == found.offsets[1:][episode] - 1) & found.array("terminated")[episode]
    assert ends.any()
    np.testing.assert_array_equal(batch.terminated.numpy() > 0, ends)


def test_from_the_command_line_to_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a module's name, looked for in the current folder."""
    meeting.written(tmp_path, meeting.HELD)
    (tmp_path / "meet.py").rename(tmp_path / "meet_here.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))

    def run(group: Any, line: str) -> str:
        result = CliRunner().invoke(group, line.split())
        assert result.exit_code == 0, result.output
        return result.stdout

    made = json.loads(run(data.main, "generate --env meet_here:make --quality random --steps 500 --json"))
    assert (made["id"], made["env"]) == ("dom2/meet_v0-random-v0", "meet_here:make")
    assert (made["normalized"], made["references"]) == (None, {"published": None, "own": None})
    run(learn.main, "fit --dataset meet_v0-random --updates 2 --batch-size 8 --eval-every 1 --out runs/a")
    evaluated = json.loads(run(learn.main, "evaluate runs/a --episodes 3 --json"))
    assert evaluated["env"] == "meet_here:make"
    assert -60 < evaluated["return"]["mean"] < 0
    assert foreign.load("meet_here:make")[0].Meet.held == []
