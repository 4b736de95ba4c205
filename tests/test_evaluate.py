import dataclasses
import json
from pathlib import Path
from typing import Any

import meeting
import numpy as np
import pytest
import torch
from scipy import stats
from tiny import CPU, SPEC, generators, new_run

from dom2 import checkpoint, evaluate, fit, run, seeding, statistics, track
from dom2.algorithms.bc import BC
from dom2data import envs, scores
from dom2data import generate as make
from dom2data.errors import UserError
from dom2data.spec import Step

torch.set_num_threads(1)


class Countdown:
    """Agent a earns a + 1 at each step; row e ends after e + 1 steps, every other one by the clock."""

    def __init__(self, rows: int, reward: str):
        self.spec = dataclasses.replace(SPEC, horizon=4, reward=reward)
        self.num_envs = rows

    def reset(self, seed: object = None, mask: object = None) -> np.ndarray:
        self.t = 0
        return np.zeros((self.num_envs, 3, 5), np.float32)

    def step(self, actions: np.ndarray) -> Step:
        assert actions.shape == (self.num_envs, 3, 2)
        self.t += 1
        rewards = np.tile(np.arange(1.0, 4.0, dtype=np.float32), (self.num_envs, 1))
        ends = np.arange(1, self.num_envs + 1) == self.t
        clock = np.arange(self.num_envs) % 2 == 0
        return Step(np.zeros((self.num_envs, 3, 5), np.float32), rewards, ends & ~clock, ends & clock)


class Zero:
    def act(self, obs: torch.Tensor, generator: torch.Generator, deterministic: bool = False) -> torch.Tensor:
        return torch.zeros(*obs.shape[:-1], 2)


@pytest.mark.parametrize(("reward", "team"), [("shared", 1.0), ("individual", 2.0)])
def test_rollout_counts_each_row_until_its_own_end(reward: str, team: float) -> None:
    (noise,) = generators(0)
    returns = evaluate.rollout(Countdown(4, reward), Zero(), noise, np.random.SeedSequence(0))
    assert returns.tolist() == [team, 2 * team, 3 * team, 4 * team]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda obs: obs[..., 0], r"expected actions \[E, N, A\] = \[1, 3, 2\] .* found \[1, 3\]"),
        (lambda obs: obs[..., :2] * np.nan, r"expected finite actions, found nan of left \(component 0\)"),
        (None, "expected the algorithm's policy to return one with act, found None"),
    ],
    ids=["shape", "nan", "none"],
)
def test_what_acts_is_told_from_what_it_acts_in(given: Any, says: str) -> None:
    policy = Zero() if given else None
    if policy:
        policy.act = lambda obs, generator, deterministic=False: given(obs)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=says) as error:
        evaluate.rollout(Countdown(1, "shared"), policy, *generators(0), np.random.SeedSequence(0))
    assert error.value.code == 1


def test_actions_beyond_the_range_push_no_harder() -> None:
    far, end = Zero(), Zero()
    far.act = lambda obs, generator, deterministic=False: torch.full((*obs.shape[:-1], 2), 50.0)  # type: ignore[method-assign]
    end.act = lambda obs, generator, deterministic=False: torch.ones(*obs.shape[:-1], 2)  # type: ignore[method-assign]
    seed = np.random.SeedSequence(3)
    returns = [
        evaluate.rollout(envs.make("tag", num_envs=5), each, *generators(0), seed) for each in (far, end)
    ]
    assert (returns[0] == returns[1]).all()


def test_rollout_equals_the_environment_stepped_by_hand() -> None:
    """Tag's own rewards, summed here, agent 0 for the team."""
    sequence = np.random.SeedSequence(3)
    returns = evaluate.rollout(envs.make("tag", num_envs=5), Zero(), *generators(0), sequence)
    env = envs.make("tag", num_envs=5)
    env.reset(sequence)
    total = sum(env.step(np.zeros((5, 3, 2), np.float32)).rewards[:, 0].astype(float) for _ in range(25))
    np.testing.assert_allclose(returns, total)


def test_summary_is_the_interquartile_mean_and_its_stratified_interval() -> None:
    values = np.random.default_rng(0).normal(50.0, 10.0, (5, 100))
    found = statistics.summary(values)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert found["iqm"] == pytest.approx(np.sort(values, axis=None)[125:375].mean())
    low, high = found["ci"]
    assert low < found["iqm"] < high
    standard_error = stats.bootstrap((values.ravel(),), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
                                     rng=np.random.default_rng(1)).standard_error  # fmt: skip
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.15)
    assert statistics.summary(values) == found
    apart = statistics.summary(values + 1000.0 * np.arange(5)[:, None])  # strata: seeds are not resampled
    assert apart["ci"][1] - apart["ci"][0] < 60.0


def test_summary_of_one_episode_claims_no_interval() -> None:
    assert statistics.summary(np.array([[7.0]])) == {"mean": 7.0, "std": 0.0, "iqm": 7.0, "ci": [7.0, 7.0]}


def test_evaluation_of_a_run(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", seeds=2)
    fit.fit(begun)
    found = evaluate.evaluate(begun, episodes=6)
    assert {"episodes": 6, "seeds": 2, "env": "tag", "shift": "none", "updates": 4}.items() <= found.items()
    raw = np.array([seed["returns"] for seed in found["per_seed"]])
    assert raw.shape == (2, 6)
    assert not np.array_equal(raw[0], raw[1])
    assert found["return"]["mean"] == pytest.approx(raw.mean())
    for each, row in zip(found["per_seed"], raw, strict=True):
        assert (each["mean"], each["std"]) == pytest.approx((row.mean(), row.std()))
    assert found["normalized"]["mean"] == pytest.approx(scores.normalize("tag", raw.mean()))
    assert found["normalized_own"]["iqm"] == pytest.approx(
        scores.normalize("tag", found["return"]["iqm"], "own")
    )
    assert found["dataset"]["mean"] == begun.document["dataset"]["return"]["mean"]
    assert evaluate.evaluate(begun, episodes=6) == found
    assert evaluate.evaluate(begun, episodes=6, seed=1)["per_seed"] != found["per_seed"]
    assert evaluate.evaluate(begun, episodes=6, candidates=3)["per_seed"] != found["per_seed"]


def test_a_user_s_environment_is_scored_by_what_came_with_the_data(tmp_path: Path) -> None:
    name, root = meeting.written(tmp_path), tmp_path / "root"
    zoo = meeting.checkpoints(tmp_path / "zoo", name)
    plan = make.plan(name, "medium", steps=400, root=root, checkpoints_in=zoo)
    dataset, settings = make.generate(plan), run.Settings(algorithm="bc", updates=1, batch_size=8)
    begun = run.create(tmp_path / "run", run.describe(settings, BC.config_type(), dataset, []))
    fit.fit(begun, root=root)
    found = evaluate.evaluate(begun, episodes=2)
    assert found["normalized"] is None
    at = {"random": -9.0, "expert": -5.0}  # of the folder
    assert found["normalized_own"]["mean"] == pytest.approx(scores.between(found["return"]["mean"], at))
    older = json.loads((tmp_path / "run/config.json").read_text())
    del older["dataset"]["references"]
    (tmp_path / "run/config.json").write_text(json.dumps(older))
    assert evaluate.evaluate(run.read(tmp_path / "run"), episodes=2)["normalized_own"] is None


def test_own_scores_are_those_of_the_policies_that_made_the_data(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", updates=1)
    at = {"random": -50.0, "expert": 50.0}  # as of policies trained here
    begun.document["dataset"]["references"] = at
    fit.fit(begun)
    found = evaluate.evaluate(begun, episodes=2)
    assert found["normalized_own"]["mean"] == pytest.approx(scores.between(found["return"]["mean"], at))
    assert found["normalized"]["mean"] == pytest.approx(scores.normalize("tag", found["return"]["mean"]))


def test_an_evaluation_knows_the_update_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when whoever fits the run saves another checkpoint meanwhile."""
    begun = new_run(tmp_path / "run", updates=2)
    fit.fit(begun)
    play = evaluate.play

    def played(*args: Any) -> evaluate.Played:
        begun.amend(updates=4)
        fit.fit(begun)
        return play(*args)

    monkeypatch.setattr(evaluate, "play", played)
    assert evaluate.evaluate(begun, episodes=2)["updates"] == 2
    assert checkpoint.updates(begun.folder) == 4


def test_a_seed_is_evaluated_alike_whatever_is_stacked_beside_it(tmp_path: Path) -> None:
    means = []
    for seeds in (1, 2):
        begun = new_run(tmp_path / str(seeds), seeds=seeds)
        fit.fit(begun)
        means.append(evaluate.evaluate(begun, episodes=4)["per_seed"][0])
    assert means[0] == means[1]


def test_evaluation_shares_no_draws_with_training(tmp_path: Path) -> None:
    purposes = (seeding.LEARNING, seeding.BATCHES, seeding.EVALUATION, seeding.WATCHING)
    draws = [seeding.generators([0], p, torch.device("cpu"))[0].initial_seed() for p in purposes]
    assert len(set(draws)) == 4
    begun = new_run(tmp_path / "run", eval_every=4, eval_episodes=4)
    fit.fit(begun)
    watched = track.read(begun.folder)[-1]["eval/return"][0]
    assert watched != pytest.approx(evaluate.evaluate(begun, episodes=4)["return"]["mean"])


def test_another_environment_is_refused_unless_allowed(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", updates=1)
    fit.fit(begun)
    assert evaluate.evaluate(begun, episodes=2)["mismatch"] == []
    begun.spec = dataclasses.replace(begun.spec, facts=begun.spec.facts | {"damping": 0.5, "gone": 1})
    with pytest.raises(
        UserError, match=r"damping = 0.5, found 0.25 \(and 1 more\).*--allow-mismatch"
    ) as error:
        evaluate.evaluate(begun, episodes=2)
    assert error.value.code == 3
    assert evaluate.evaluate(begun, episodes=2, allow_mismatch=True)["mismatch"] == [
        {"fact": "damping", "expected": 0.5, "found": 0.25},
        {"fact": "gone", "expected": 1, "found": None},
    ]


def test_networks_that_do_not_fit_are_refused_even_if_allowed(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", updates=1)
    fit.fit(begun)
    begun.spec = dataclasses.replace(begun.spec, obs_dims=(15, 15, 15), facts={})
    with pytest.raises(UserError, match=r"sizes \(\(15, 15, 15\), 2\), found") as error:
        evaluate.evaluate(begun, episodes=2, allow_mismatch=True)
    assert error.value.code == 3


def test_an_environment_that_is_not_installed_is_another_one() -> None:
    with pytest.raises(UserError, match=r"found 'ludo'.*--allow-mismatch") as error:
        run.mismatch(SPEC, "ludo")
    assert error.value.code == 3
    assert run.mismatch(SPEC, "ludo", allow=True) == [
        {"fact": "environment", "expected": "ludo", "found": None}
    ]


def test_a_shifted_evaluation_records_what_was_drawn(tmp_path: Path) -> None:
    """The parameters are those of the episodes that were played; starts and noise are the standard ones."""
    begun = new_run(tmp_path / "run", seeds=2)
    fit.fit(begun)
    standard = evaluate.evaluate(begun, episodes=3)
    found = evaluate.evaluate(begun, episodes=3, shift="speed")
    assert (standard["shift"], standard["ranges"]) == ("none", {})
    assert [each["parameters"] for each in standard["per_seed"]] == [{}, {}]
    assert (found["shift"], found["ranges"]) == ("speed", {"v_min": 0.4, "v_max": 1.0})
    drawn = np.array([each["parameters"]["v"] for each in found["per_seed"]])
    assert drawn.shape == (2, 3, 3)
    assert ((drawn >= 0.4) & (drawn <= 1.0)).all()
    assert len(np.unique(drawn)) == drawn.size
    assert found["per_seed"] != standard["per_seed"]
    assert evaluate.evaluate(begun, episodes=3, shift="speed") == found

    algorithm = evaluate.trained(begun)
    for index, each in enumerate(found["per_seed"]):
        start, noise = np.random.SeedSequence(0, spawn_key=(seeding.EVALUATION, index)).spawn(2)
        env = envs.make("tag", num_envs=3)
        env.max_speed[:, :3] = each["parameters"]["v"]
        again = evaluate.rollout(env, algorithm.policy(index), seeding.generator(noise, CPU), start)
        assert again.tolist() == each["returns"]


def test_shifts_and_untrained_runs_are_refused(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    for shift in ("ice", "extreme"):
        with pytest.raises(ValueError, match=rf"a shift of tag \(none, speed, .*found '{shift}'"):
            evaluate.evaluate(begun, shift=shift)
    with pytest.raises(UserError, match=r"expected a checkpoint .*--resume"):
        evaluate.evaluate(run.read(begun.folder))
    assert checkpoint.latest(begun.folder) is None
