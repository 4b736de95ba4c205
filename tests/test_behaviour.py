"""Training of behaviour policies: repeatable, picks what it says it picks; the long run is marked slow."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from dom2_policies import td3, zoo
from dom2_policies.policy import Uniform, acting, load_actor
from dom2data import behaviour, envs, prey, retrain, scores, training
from dom2data.errors import CHECK_FAILED, USAGE, UserError
from dom2data.plan import plan
from dom2data.rollout import play

TINY = td3.Config(batch_size=64, random_steps=500, steps_per_update=50)
HOW = training.Recipe(
    learner=TINY, steps=2_000, num_envs=20, waves_per_evaluation=1, evaluation_episodes=40,
    reference_episodes=40,
    prey=prey.PreyRecipe(predators=TINY, prey=TINY, steps=3_000, num_envs=20, evaluation_episodes=40),
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A recipe that ends in a second, at levels that its first evaluations reach."""
    monkeypatch.setitem(training.RECIPES, "tag", HOW)
    monkeypatch.setitem(scores.PUBLISHED_RETURNS, "tag", {"medium": (-1000.0, 0.0)})
    monkeypatch.setitem(scores.PUBLISHED, "tag", {"random": 1000.0, "expert": 2000.0})
    lenient = dataclasses.replace(HOW.prey, outside=1.0)
    monkeypatch.setitem(training.RECIPES, "tag", dataclasses.replace(HOW, prey=lenient))


def test_training_twice_gives_the_same_bytes(tiny, tmp_path):
    seen = []
    for folder in ("a", "b"):
        seen.append(behaviour.train("tag", 7, tmp_path / folder, new_prey=True))
    assert seen[0] == json.loads(json.dumps(seen[1]))
    for name in ("prey", "medium", "expert"):
        a, b = (tmp_path / folder / f"tag-{name}.safetensors" for folder in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()
    assert zoo.entry("tag", tmp_path / "a")["policies"]["medium"]["env_steps"] == 1_000
    assert seen[0]["policies"]["expert"]["return"] >= seen[0]["policies"]["medium"]["return"]


def test_another_seed_gives_another_policy(tiny):
    (one, _), (two, _) = (behaviour.replay_buffer("tag", seed) for seed in (0, 1))
    assert not np.array_equal(one.actions, two.actions)


def test_the_replay_buffer_holds_what_training_had_seen(tiny):
    rows, checkpoint = behaviour.replay_buffer("tag", 0)
    assert rows.observations.shape == (40, 26, 3, 16)  # medium at the first evaluation after the first update
    assert checkpoint.env_steps == 1_000
    assert np.abs(rows.actions).max() <= 1
    assert (rows.lengths == 25).all()
    assert rows.truncated.all()
    assert not rows.terminated.any()


class Killed(Exception):
    """Stands in for a kill: nothing that the training does catches it."""


def killed_at(steps: int):
    def progress(what: str, done: int, total: int) -> None:
        if done >= steps and "prey" not in what:
            raise Killed

    return progress


def test_a_killed_training_continues_bit_for_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "SAVE_SECONDS", 0.0)
    retrain.train("tag", 7, tmp_path / "whole", new_prey=True)
    with pytest.raises(Killed):
        retrain.train("tag", 7, tmp_path / "cut", killed_at(1_500), new_prey=True)
    assert not (tmp_path / "cut").exists()
    state = torch.load(tmp_path / "cut.partial" / behaviour.STATE, weights_only=True)
    assert state["training"]["wave"] == 2
    monkeypatch.setattr(behaviour, "train_prey", lambda *_: pytest.fail("the prey is there already"))
    retrain.train("tag", 7, tmp_path / "cut", new_prey=True)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == ["tag-expert.safetensors", "tag-medium.safetensors", "tag-prey.safetensors", "zoo.json"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == files
    for name in files:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_policies_are_of_use_with_the_prey_that_they_were_trained_against(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "references", lambda *_: {"random": -2000.0, "expert": 0.0})
    kept, own = tmp_path / "kept", tmp_path / "own"
    retrain.train("tag", 7, kept)
    assert set(zoo.entry("tag", kept)["policies"]) == {"medium", "expert"}
    assert plan("tag", "medium", checkpoints_in=kept).recipe.fingerprint == envs.spec("tag").fingerprint
    retrain.train("tag", 7, own, new_prey=True)
    for quality in ("random", "medium", "medium-replay"):
        with pytest.raises(UserError, match="the shipped prey of tag, found those of another") as error:
            plan("tag", quality, checkpoints_in=own)
        assert error.value.code == CHECK_FAILED
    with pytest.raises(UserError, match="against the shipped prey of tag"):
        behaviour.measure("tag", 40, 0, own)
    with pytest.raises(UserError, match="expected an environment with a prey"):
        retrain.train("spread", 7, tmp_path / "none", new_prey=True)
    assert not (tmp_path / "none").exists()


def test_a_training_begun_otherwise_is_not_continued(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "references", lambda *_: {"random": -2000.0, "expert": 0.0})
    with pytest.raises(Killed):
        retrain.train("tag", 4, tmp_path / "zoo", killed_at(0))
    begun = sorted((tmp_path / "zoo.partial").rglob("*"))
    with pytest.raises(UserError, match=r"zoo as it was begun \(seed 4\).*--force discards it") as error:
        retrain.train("tag", 7, tmp_path / "zoo")
    assert error.value.code == USAGE
    assert sorted((tmp_path / "zoo.partial").rglob("*")) == begun
    retrain.train("tag", 7, tmp_path / "zoo", force=True)
    assert zoo.entry("tag", tmp_path / "zoo")["policies"]["expert"]["seed"] == 7
    with pytest.raises(UserError, match="expected a new folder"):
        retrain.train("tag", 7, tmp_path / "zoo")


def test_a_training_is_not_continued_in_another_environment(tiny, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        retrain.train("tag", 4, tmp_path / "zoo", killed_at(0))
    edited = dataclasses.replace(envs.spec("tag"), facts={"reward": "another"})
    monkeypatch.setattr(envs, "spec", lambda _: edited)
    with pytest.raises(UserError, match=r"zoo as it was begun \(fingerprint \w+\), found another"):
        retrain.train("tag", 4, tmp_path / "zoo")


def test_a_kill_before_the_folder_has_its_name_loses_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "references", lambda *_: {"random": -2000.0, "expert": 0.0})
    made = retrain.train("tag", 4, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", lambda *_: killed_at(0)("", 0, 0))
        with pytest.raises(Killed):
            retrain.train("tag", 4, tmp_path / "zoo")
    monkeypatch.setattr(behaviour, "train", lambda *_, **__: pytest.fail("it is trained already"))
    assert retrain.train("tag", 4, tmp_path / "zoo") == made
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir()) == files


def test_long_episodes_are_evaluated_at_the_end_or_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "references", lambda *_: {"random": -2000.0, "expert": 0.0})
    few = dataclasses.replace(training.recipe("tag"), waves_per_evaluation=1000)
    monkeypatch.setitem(training.RECIPES, "tag", few)
    assert behaviour.train("tag", 0, tmp_path / "some")["policies"]["expert"]["env_steps"] == few.steps
    monkeypatch.delitem(scores.PUBLISHED_RETURNS, "tag")
    monkeypatch.setitem(training.RECIPES, "tag", dataclasses.replace(few, steps=500))
    with pytest.raises(UserError, match="found 20 at once of 25 steps each and nothing learned"):
        behaviour.train("tag", 0, tmp_path / "none")


def test_a_replay_buffer_continues_bit_for_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "SAVE_SECONDS", 0.0)
    first, _ = behaviour.replay_buffer("tag", 0)
    level = behaviour.medium_level("tag")
    monkeypatch.setitem(scores.PUBLISHED_RETURNS, "tag", {"medium": (1e6, 0.0)})
    with pytest.raises(Killed):
        behaviour.replay_buffer("tag", 0, killed_at(1_500), state=tmp_path / "state.pt")
    with pytest.raises(UserError, match="expected a return of"):
        behaviour.replay_buffer("tag", 0, state=tmp_path / "state.pt")
    held = torch.load(tmp_path / "state.pt", weights_only=True)["training"]["buffer"]
    np.testing.assert_array_equal(held["actions"][:40].numpy(), first.actions)
    assert level == -1000


def test_without_a_published_level_medium_lies_between_random_and_expert(tiny, tmp_path, monkeypatch):
    monkeypatch.delitem(scores.PUBLISHED_RETURNS, "tag")
    with pytest.raises(UserError, match="expected a medium level of tag, found none"):
        behaviour.replay_buffer("tag", 0, folder=tmp_path / "none")
    monkeypatch.setattr(behaviour, "references", lambda *_: {"random": -2000.0, "expert": 0.0})
    entry = behaviour.train("tag", 0, tmp_path)
    random, best = entry["references"]["random"], entry["policies"]["expert"]["return"]
    assert entry["medium_level"] == pytest.approx(random + 0.3 * (best - random))
    assert entry["policies"]["medium"]["return"] >= entry["medium_level"]
    _, checkpoint = behaviour.replay_buffer("tag", 0, folder=tmp_path)
    assert checkpoint.mean == entry["policies"]["medium"]["return"]
    monkeypatch.setattr(behaviour, "references", lambda *_: {"random": 2000.0, "expert": 0.0})
    with pytest.raises(UserError, match="expected an expert above uniform actions"):
        behaviour.train("tag", 0, tmp_path)


def test_a_variant_is_trained_as_its_task_and_a_file_of_like_name_is_not():
    for name in envs.KNOWN:
        assert training.recipe(name) is training.RECIPES[envs.task(name)]
    other = training.recipe("my.py:make")
    assert other not in training.RECIPES.values()
    assert training.recipe("spread-custom.py:make") is training.recipe("spread-10:make") is other


def test_actors_see_the_beginning_of_what_critics_see(monkeypatch):
    how = training.RECIPES["halfcheetah"]
    short = dataclasses.replace(how.learner, random_steps=500, batch_size=32, steps_per_update=500)
    monkeypatch.setitem(
        training.RECIPES,
        "halfcheetah",
        dataclasses.replace(how, learner=short, num_envs=1, evaluation_episodes=1),
    )
    monkeypatch.setitem(scores.PUBLISHED_RETURNS, "halfcheetah", {"medium": (-1e4, 0.0)})
    rows, checkpoint = behaviour.replay_buffer("halfcheetah", 0)
    assert rows.observations.shape == (1, 1001, 2, 6)
    assert checkpoint.actor.sizes == (6, 128, 128, 3)


def test_a_level_that_is_not_reached_is_an_error(tiny, monkeypatch):
    monkeypatch.setitem(scores.PUBLISHED_RETURNS, "tag", {"medium": (1e6, 0.0)})
    with pytest.raises(UserError, match=r"expected a return of 1000000\.0 within 2000 steps"):
        behaviour.replay_buffer("tag", 0)


def test_the_joint_view_shows_the_prey_as_an_agent():
    env = prey.Joint(envs.unguarded("tag", num_envs=5, seed=1))
    obs = env.reset(2)
    assert obs.shape == (5, 4, 16)
    np.testing.assert_array_equal(obs[:, 3, :14], env.env.prey_obs[:, 0])
    assert not obs[:, 3, 14:].any()
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 4, 2)).astype(np.float32)
    alone = envs.unguarded("tag", num_envs=5, seed=1)
    alone.reset(2)
    expected = alone.step(actions[:, :3], actions[:, 3:])
    step = env.step(actions)
    np.testing.assert_array_equal(step.obs[:, :3], expected.obs)
    np.testing.assert_array_equal(step.rewards[:, 3:], alone.prey_rewards)


def test_returns_are_the_first_agents_where_shared():
    rewards = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    spec = envs.spec("tag")
    np.testing.assert_array_equal(spec.team(rewards.sum(axis=1)), [3, 15])
    individual = dataclasses.replace(spec, reward="individual")
    np.testing.assert_array_equal(individual.team(rewards.sum(axis=1)), rewards.sum(axis=1).mean(axis=1))


@pytest.mark.parametrize("env_name", envs.NAMES)
@pytest.mark.parametrize("name", ["random", "medium", "expert"])
def test_shipped_policies_earn_what_the_zoo_says(env_name, name):
    entry, episodes = zoo.entry(env_name), 20 if env_name == "halfcheetah" else 1000
    env = envs.make(env_name, num_envs=episodes)
    if name == "random":
        policy, expected = Uniform(env.spec.act_dim), entry["references"]["random"]
    else:
        policy = load_actor(zoo.path(env_name, name), entry["noise"])
        expected = entry["policies"][name]["return"]
    rows = play(env, env.reset(123), acting(policy, torch.Generator().manual_seed(0)))
    returns = env.spec.team(rows.rewards.sum(axis=1))
    # Both are means of at least that many episodes; the zoo's may be the best of several such means.
    assert returns.mean() == pytest.approx(expected, abs=5 * np.sqrt(2) * returns.std() / np.sqrt(episodes))


EXPERT = {"tag": 186, "world": 80, "spread": 531, "halfcheetah": 3339}


@pytest.mark.parametrize("env_name", envs.NAMES)
def test_the_zoo_lies_where_the_published_datasets_do(env_name):
    entry, published = zoo.entry(env_name), scores.PUBLISHED_RETURNS[env_name]
    assert entry["references"]["random"] == pytest.approx(
        published["random"][0], abs=0.25 * published["random"][1]
    )
    # The first evaluation at the level, and learning is fast there: at most half a standard deviation above.
    assert 0 <= entry["policies"]["medium"]["return"] - published["medium"][0] < 0.5 * published["medium"][1]
    assert entry["references"]["expert"] >= EXPERT[env_name]


@pytest.mark.slow
@pytest.mark.parametrize("env_name", ["tag", "world", "spread"])
def test_training_arrives_where_the_shipped_policies_are(env_name, tmp_path):
    """Against the shipped prey: another one, as good as it may be, is another environment."""
    shipped = zoo.entry(env_name)
    found = behaviour.train(env_name, shipped["policies"]["expert"]["seed"], tmp_path)
    for key in ("random", "expert"):
        noise = 0.1 * abs(shipped["references"]["expert"])
        assert found["references"][key] == pytest.approx(shipped["references"][key], abs=noise)
