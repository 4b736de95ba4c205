"""Replay: recorded seeds and actions give the recorded numbers in every bit, and a change is found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import meeting
import numpy as np
import pytest
from commands import dom2data
from small_datasets import stored

from dom2_policies import td3
from dom2data import behaviour, named, training
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.generate import generate, plan
from dom2data.mix import mix
from dom2data.replay import replay
from dom2data.subsample import Selection, subsample


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


def made(root: Path, env: str, quality: str, steps: int | None = None) -> Dataset:
    return generate(plan(env, quality, steps=steps, root=root), force=True)


@pytest.fixture(scope="module")
def tag(root: Path) -> Dataset:
    return made(root, "tag", "medium-expert", 100_000)


@pytest.mark.parametrize(
    ("env", "quality", "steps"),
    [("spread", "random", 2_500), ("world", "medium", 2_500), ("halfcheetah", "random", 3_000)],
)
def test_every_environment_replays_exactly(root: Path, env: str, quality: str, steps: int) -> None:
    found = replay(made(root, env, quality, steps), 1.0)
    assert (found.error, found.where, found.steps) == (0.0, "", steps)


def test_a_share_is_whole_cohorts(tag: Dataset) -> None:
    """4,000 episodes in two blocks, each of two policies."""
    whole, part = replay(tag, 1.0), replay(tag, 0.01)
    assert (whole.episodes, whole.batches, whole.error) == (4000, 4, 0.0)
    assert (part.batches, part.error) == (1, 0.0)
    assert part.episodes in (750, 1250)


def test_through_subsets_and_mixtures(root: Path, tag: Dataset) -> None:
    part = subsample(tag, 0.05, root=root)
    best = subsample(part, selection=Selection(returns="50%:"), root=root)
    other = made(root, "tag", "random", 5_000)
    both = mix([best, other], [1, 1], root=root, out="both")
    for dataset in (part, best, both):
        found = replay(dataset, 1.0)
        assert (found.episodes, found.error) == (dataset.n_episodes, 0.0)


def test_medium_replay_replays_from_the_seeds_of_its_waves(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two waves of 100 episodes of training, stopped by a level that anything reaches."""
    how = training.Recipe(
        learner=dataclasses.replace(training.recipe("tag").learner, random_steps=1000, steps_per_update=500),
        steps=10_000,
        num_envs=100,
        evaluation_episodes=100,
    )
    monkeypatch.setattr(training, "recipe", lambda name: how)
    monkeypatch.setattr(behaviour, "recipe", lambda name: how)
    monkeypatch.setattr(behaviour, "medium_level", lambda name, folder=None: -1000.0)
    found = replay(made(root, "tag", "medium-replay"), 1.0)
    assert (found.error, found.batches * 100) == (0.0, found.episodes)
    assert found.batches > 1


@pytest.mark.parametrize("array", ["observations", "rewards", "actions"])
def test_a_changed_number_is_found(tag: Dataset, array: str) -> None:
    arrays = {name: values.copy() for name, values in tag.arrays().items()}
    arrays[array][len(arrays[array]) // 2, 1] *= -1  # in the first step of episode 2000
    arrays[array][len(arrays[array]) // 2, 1] += 0.01 if array == "rewards" else 0
    found = replay(Dataset(tag.manifest, arrays.__getitem__), 1.0)
    assert found.error > 0.0
    assert "episode 2000," in found.where
    assert array in found.where or array == "actions"


@pytest.mark.parametrize("number", [-1, 4000])
def test_episodes_that_the_ancestor_does_not_have(root: Path, tag: Dataset, number: int) -> None:
    part = subsample(tag, 0.01, out="hundredth", root=root, force=True)
    arrays = {name: values.copy() for name, values in part.arrays().items()}
    arrays["parent_episode"][3] = number
    with pytest.raises(UserError, match=f"cannot replay: {tag.id} has 4000 episodes, others are of it"):
        replay(Dataset(part.manifest, arrays.__getitem__), 1.0)


def test_nan_is_an_error_and_not_equal_to_anything(tag: Dataset) -> None:
    arrays = {name: values.copy() for name, values in tag.arrays().items()}
    arrays["rewards"][7, 0] = np.nan
    assert replay(Dataset(tag.manifest, arrays.__getitem__), 1.0).error == np.inf


def test_another_environment_than_then(tag: Dataset) -> None:
    manifest = json.loads(json.dumps(tag.manifest))
    manifest["spec"]["facts"]["dt"] = 0.2
    with pytest.raises(UserError, match=r"cannot replay: it was made in another tag: dt 0.2 \(here 0.1\)"):
        replay(Dataset(manifest, tag.array), 1.0)


@pytest.fixture
def meet(tmp_path: Path) -> str:
    """An environment of a user's own, whose episodes may end early."""
    return meeting.written(tmp_path)


def test_an_environment_of_ones_own(tmp_path: Path, meet: str) -> None:
    """Blocks of up to 5,000 steps; of the last, the episodes at the end are not in the dataset."""
    own = made(tmp_path, meet, "random", 12_000)
    whole = replay(own, 1.0)
    assert (whole.episodes, whole.steps, whole.error) == (own.n_episodes, len(own), 0.0)
    assert own.lengths.min() < own.spec.horizon == own.lengths.max()
    part = replay(subsample(own, 0.1, root=tmp_path), 0.01)
    assert (part.batches, part.error) == (1, 0.0)


def test_policies_of_ones_own_take_turns(tmp_path: Path, meet: str) -> None:
    zoo = meeting.checkpoints(tmp_path / "zoo", meet)
    own = generate(plan(meet, "random-medium", steps=5_500, root=tmp_path, checkpoints_in=zoo))
    found = replay(own, 1.0)
    assert (found.episodes, found.batches, found.error) == (own.n_episodes, 4, 0.0)


def test_a_training_in_an_environment_of_ones_own(
    tmp_path: Path, meet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = td3.Config(hidden=16, batch_size=64, random_steps=300, steps_per_update=50)
    how = training.Recipe(learner, steps=2_000, num_envs=20, waves_per_evaluation=2, evaluation_episodes=20)
    monkeypatch.setitem(training.RECIPES, meet, how)
    monkeypatch.setattr(behaviour, "medium_level", lambda name, folder=None: -1000.0)
    zoo = meeting.checkpoints(tmp_path / "zoo", meet)
    found = replay(generate(plan(meet, "medium-replay", root=tmp_path, checkpoints_in=zoo)), 1.0)
    assert (found.error, found.batches * 20) == (0.0, found.episodes)
    assert found.batches > 1


def test_what_does_not_follow_from_the_seed_is_found(tmp_path: Path) -> None:
    meet = meeting.written(tmp_path, ("np.random.default_rng(seed)", "np.random.default_rng()"))
    own = made(tmp_path, meet, "random", 200)
    run = dom2data("verify", own.id, "--root", tmp_path, "--replay", "100%")
    assert run.exit_code == 3
    assert "found " in run.stderr
    assert f"check with `dom2data check-env {meet}` that reset(seed) sets everything" in run.stderr


@pytest.mark.parametrize(("name", "error"), [("terminated", 1.0), ("truncated", 1.0), ("rewards", 0.5)])
def test_another_end_of_an_episode_is_found(tmp_path: Path, meet: str, name: str, error: float) -> None:
    own = made(tmp_path, meet, "random", 200)
    arrays = {each: values.copy() for each, values in own.arrays().items()}
    if name == "rewards":
        arrays[name][-1] -= 0.5
    else:
        arrays[name][-1] = ~arrays[name][-1]
        arrays["truncated"][-1] &= not arrays["terminated"][-1]
    found = replay(Dataset(own.manifest, arrays.__getitem__), 1.0)
    assert found.error == pytest.approx(error)
    assert f" of episode {own.n_episodes - 1}, step {own.lengths[-1] - 1}" in found.where


def test_no_code_is_run_that_a_dataset_names(
    tmp_path: Path, meet: str, tag: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only the data name is refused; ``--env`` names it, also another file of the same content."""
    own = made(tmp_path, meet, "random", 200)

    def verify(dataset: Dataset, root: Path, *words: str) -> tuple[int, str]:
        run = dom2data("verify", dataset.id, "--root", root, *words)
        return run.exit_code, run.stderr

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.setattr(named, "_here", set())
    code, text = verify(own, tmp_path, "--replay", "1%")
    assert code == 3
    assert f"found {meet}, which only the data or the run name; nothing is run" in text
    assert f"`dom2data verify {own.id} --replay 1% --env {meet}` allows it" in text
    (tmp_path / "here").mkdir()
    here = meeting.written(tmp_path / "here")
    assert verify(own, tmp_path, "--replay", "1%", "--env", here) == (0, "")
    assert verify(own, tmp_path, "--replay", "1%")[0] == 3
    assert verify(own, tmp_path, "--env", here) == (
        2,
        "error: expected --env with --replay, found no --replay; add --replay 1%\n",
    )
    assert verify(tag, root, "--replay", "1%", "--env", here)[0] == 2
    (tmp_path / "edited").mkdir()
    edited = meeting.written(tmp_path / "edited", ("distance < 0.05", "distance < 0.06"))
    code, text = verify(own, tmp_path, "--replay", "1%", "--env", edited)
    assert code == 3
    assert "cannot replay: it was made in another meet_v0: source " in text


def test_data_made_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot replay: memory/small-v0 was not generated here \(no recipe\)"
    ):
        replay(stored(tmp_path, [4, 4]), 1.0)


def test_the_command(root: Path, tag: Dataset) -> None:
    def verify(*words: str) -> tuple[int, str, str]:
        run = dom2data("verify", tag.id, "--root", root, *words)
        return run.exit_code, run.stdout, run.stderr

    code, text, _ = verify("--replay", "1%")
    assert code == 0
    assert "largest error 0" in text
    code, text, _ = verify("--replay", "0.01", "--json")
    assert json.loads(text)["replay"]["error"] == 0.0
    for tolerance in ("-1", "nan"):
        assert verify("--replay", "1%", "--tolerance", tolerance)[::2] == (
            2,
            f"error: expected a --tolerance of 0 or more, found {tolerance}\n",
        )
    for share in ("x", "0", "150%", "nan"):
        code, text, error = verify("--replay", share)
        assert (code, text) == (2, "")
        assert error.startswith("error: expected ")
