"""Generation end to end on tag: same bytes whatever happens on the way."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dom2_policies import zoo
from dom2_policies.policy import Actor
from dom2data import behaviour, collect, envs, retrain
from dom2data import generate as make
from dom2data.dataset import Dataset
from dom2data.dataset import open as open_dataset
from dom2data.errors import UserError
from dom2data.executors import Processes
from dom2data.plan import state
from dom2data.rollout import Rows
from dom2data.store import layout as layouts
from dom2data.store import zarr
from dom2data.store.stage import open_stage
from dom2data.training import Checkpoint
from dom2data.verify import verify


def generated(root: Path, quality: str = "medium-expert", **how: Any) -> Dataset:
    options = {key: how.pop(key) for key in ("executor", "force", "progress") if key in how}
    return make.generate(make.plan("tag", quality, **({"steps": 2_125} | how), root=root), **options)


@pytest.mark.usefixtures("small_blocks")
def test_the_hash_depends_on_the_recipe_and_not_on_the_workers(tmp_path: Path) -> None:
    one = generated(tmp_path / "one")
    assert len(one.manifest["arrays"]["actions"]["leaves"]) == 5
    assert generated(tmp_path / "again").hash == one.hash
    assert generated(tmp_path / "two", executor=Processes(2)).hash == one.hash
    others = [
        generated(tmp_path / str(i), **how).hash for i, how in enumerate(({"seed": 1}, {"steps": 2_000}))
    ]
    assert len({one.hash, *others}) == 3
    assert verify(one)


@pytest.mark.parametrize(
    ("env", "quality", "recorded"),
    [
        ("tag", "medium-expert", "641618eba82e"),
        ("world", "random-medium", "001e996a1e54"),
        ("spread", "expert", "0da263defe87"),
    ],
)
def test_the_bytes_are_those_recorded(tmp_path: Path, env: str, quality: str, recorded: str) -> None:
    """Change them only together with CHANGELOG and docs/datasets.md: the hashes there change, too."""
    assert make.generate(make.plan(env, quality, steps=500, root=tmp_path)).hash[:12] == recorded


@pytest.mark.usefixtures("small_blocks")
def test_a_block_in_the_dataset_is_the_block_collected_alone(tmp_path: Path) -> None:
    found = generated(tmp_path)
    alone = collect.collect_block(make.job(make.plan("tag", "medium-expert", steps=2_125), 2))
    np.testing.assert_array_equal(alone.pop("offsets"), 25 * np.arange(21))
    for name, values in alone.items():
        rows = {"observations": 20 * 26, "actions": 500, "rewards": 500}.get(name, 20)
        np.testing.assert_array_equal(found.array(name)[2 * rows : 3 * rows], values, err_msg=name)


def test_the_manifest_tells_where_the_data_come_from(tmp_path: Path) -> None:
    found = generated(tmp_path, steps=500)
    manifest = json.loads((tmp_path / "dom2/tag-medium-expert-v0/data/manifest.json").read_text())
    assert manifest == found.manifest
    assert manifest["sources"] == ["medium", "expert"]
    assert manifest["policies"]["expert"]["sha256"] == zoo.sha256("tag", "expert")
    assert manifest["references"]["own"] == zoo.entry("tag")["references"]
    assert manifest["returns"]["team"]["mean"] == pytest.approx(found.returns.mean(), rel=1e-5)
    assert (manifest["steps"], manifest["episodes"]) == (500, 20)
    assert (np.bincount(found.array("source")) == 10).all()


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_run_continues_at_its_last_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = generated(tmp_path / "undisturbed").hash
    blocks: list[int] = []

    def interrupted(job: collect.Job) -> Any:
        if len(blocks) == 3:
            raise KeyboardInterrupt
        blocks.append(job.block)
        return collect.collect_block(job)

    monkeypatch.setattr(make, "collect_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generated(tmp_path / "root")
    assert not (tmp_path / "root" / "dom2").exists()
    with pytest.raises(UserError, match="no dom2/tag-medium-expert"):
        open_dataset("tag-medium-expert", tmp_path / "root")

    blocks.clear()
    monkeypatch.setattr(
        make, "collect_block", lambda job: blocks.append(job.block) or collect.collect_block(job)
    )
    seen: list[tuple[str, int, int]] = []
    assert generated(tmp_path / "root", progress=lambda *event: seen.append(event)).hash == undisturbed
    assert blocks == [3, 4]
    assert seen == [("collecting", n, 2_125) for n in (1_500, 2_000, 2_125)]


@pytest.mark.usefixtures("small_blocks")
def test_a_finished_block_that_was_damaged_since_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = generated(tmp_path / "undisturbed").hash
    monkeypatch.setattr(make, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        generated(tmp_path / "root")
    monkeypatch.undo()
    monkeypatch.setitem(layouts._BLOCK_EPISODES, 25, 20)
    actions = tmp_path / "root/.dom2data/stage/dom2/tag-medium-expert-v0/dataset/data/actions/c"
    (actions / "1/0/0").write_bytes(b"")
    (actions / "2/0/0").unlink()
    assert generated(tmp_path / "root").hash == undisturbed


@pytest.mark.usefixtures("small_blocks")
def test_another_recipe_does_not_continue_nor_discard_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        generated(tmp_path)
    with pytest.raises(UserError, match=r"as it was begun \(steps 2125\), found another") as error:
        generated(tmp_path, steps=500)
    assert error.value.code == 2
    monkeypatch.undo()
    assert len(generated(tmp_path, steps=500, force=True)) == 500


@pytest.mark.usefixtures("small_blocks")
def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = generated(tmp_path, seed=1, out="mine")
    undisturbed = generated(tmp_path, out="other").hash
    write = zarr.write_chunk

    def full(data: Path, name: str, array: Any, chunk: int, values: Any) -> str:
        if chunk == 2 and name == "rewards":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(data, name, array, chunk, values)

    monkeypatch.setattr(zarr, "write_chunk", full)
    with pytest.raises(UserError, match="found the disk full; nothing was committed") as error:
        generated(tmp_path, out="mine", force=True)
    assert error.value.code == 1
    assert open_dataset("mine", tmp_path).hash == old.hash
    monkeypatch.setattr(zarr, "write_chunk", write)
    assert generated(tmp_path, out="mine", force=True).hash == undisturbed


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"expected 1\d\d,\d{3} bytes free under .*, found 5;") as error:
        generated(tmp_path, steps=500)
    assert error.value.code == 1
    assert not list(tmp_path.rglob("zarr.json"))


@pytest.mark.usefixtures("small_blocks")
def test_what_is_there_needs_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(job: collect.Job) -> Any:
        if job.block == 3:
            raise KeyboardInterrupt
        return collect.collect_block(job)

    with monkeypatch.context() as patch:
        patch.setattr(make, "collect_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generated(tmp_path)
    todo = make.plan("tag", "medium-expert", steps=2_125, root=tmp_path)
    with open_stage(todo.dataset_id, tmp_path) as stage:
        left = todo.nbytes - stage.size()
    assert left < todo.nbytes / 2
    free = iter((left - 1, left))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, next(free)))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=rf"expected {left:,} bytes free under .*, found {left - 1:,};"):
        generated(tmp_path)
    assert len(generated(tmp_path)) == 2_125


def test_medium_replay_is_the_buffer_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = envs.spec("tag")
    rng = np.random.default_rng(0)

    def buffer(
        name: str, seed: int, progress: Any, folder: Path, state: Path | None
    ) -> tuple[Rows, Checkpoint]:
        progress("training", 5, 10)
        shapes = ((7, 26, 3, spec.obs_dim), (7, 25, 3, 2), (7, 25, 3))
        observations, actions, rewards = (rng.uniform(-1, 1, size=s).astype(np.float32) for s in shapes)
        ended, actor = np.zeros(7, bool), Actor((spec.obs_dim, 2), 3, [torch.Generator()])
        rows = Rows(observations, actions, rewards, np.full(7, 25), ended, ~ended)
        return rows, Checkpoint(actor, 117.0, 1.0, 175, 3)

    monkeypatch.setattr(behaviour, "replay_buffer", buffer)
    found = generated(tmp_path, "medium-replay", steps=None)
    assert (found.n_episodes, len(found), found.quality) == (7, 175, "medium-replay")
    assert found.manifest["recipe"]["steps"] is None
    assert found.manifest["policies"]["medium"]["return"] == 117.0
    rng = np.random.default_rng(0)
    rows, _ = buffer("tag", 0, lambda *_: None, zoo.FOLDER, None)
    for episode, observations in zip(found.episodes(), rows.observations, strict=True):
        np.testing.assert_array_equal(episode.observations, observations)
        assert episode.truncated
    assert verify(found)


def test_an_interrupted_replay_keeps_the_state_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Path] = []

    def interrupted(name: str, seed: int, progress: Any, folder: Path, state: Path) -> Any:
        states.append(state)
        if len(states) == 2:
            assert state.read_text() == "half way"
        state.write_text("half way")
        raise KeyboardInterrupt

    monkeypatch.setattr(behaviour, "replay_buffer", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            generated(tmp_path, "medium-replay", steps=None)
    assert states[0] == states[1]


@pytest.mark.usefixtures("small_blocks")
def test_a_plan_knows_what_is_there(tmp_path: Path) -> None:
    todo = make.plan("tag", "random", steps=1_000, root=tmp_path)
    assert state(todo) == "missing"
    found = generated(tmp_path, "random", steps=1_000)
    assert (state(todo), state(todo, rehash=True)) == ("complete", "complete")
    assert state(make.plan("tag", "random", steps=500, root=tmp_path)) == "other"
    data = tmp_path / found.id / "data"
    chunk = data / "actions/c/1/0/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:20] + bytes([whole[20] ^ 64]) + whole[21:])
    assert (state(todo), state(todo, rehash=True)) == ("complete", "damaged")
    chunk.write_bytes(whole[:-1])
    assert state(todo) == "damaged"
    chunk.unlink()
    assert state(todo) == "damaged"
    (data / "COMPLETE").unlink()
    assert state(todo) == "other"


def test_retrained_policies_are_used_and_the_shipped_ones_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, bool]] = []

    def train(name: str, seed: int, out: Path, progress: Any, new_prey: bool) -> dict[str, Any]:
        trained.append((seed, new_prey))
        shutil.copytree(zoo.FOLDER, out, dirs_exist_ok=True)
        (out / "tag-medium.safetensors").write_bytes((out / "tag-expert.safetensors").read_bytes())
        document = json.loads((out / "zoo.json").read_text())
        document["tag"]["policies"]["medium"] = document["tag"]["policies"]["expert"]
        (out / "zoo.json").write_text(json.dumps(document))
        return document["tag"]

    monkeypatch.setattr(behaviour, "train", train)
    folder = retrain.retrained("tag", 4, tmp_path)
    assert retrain.retrained("tag", 4, tmp_path) == folder  # the second time they are there
    assert trained == [(4, False)]
    recipe = make.plan("tag", "medium", checkpoints_in=folder).recipe
    assert recipe.policies["medium"] == zoo.sha256("tag", "expert")
    with pytest.raises(UserError, match="--force replaces it"):
        retrain.train("tag", 4, folder)


@pytest.mark.usefixtures("small_blocks")
def test_notes_that_a_power_cut_has_emptied_count_for_nothing(tmp_path: Path) -> None:
    whole = generated(tmp_path / "whole").hash
    stage = tmp_path / ".dom2data/stage/dom2/tag-medium-expert-v0"
    (stage / "blocks").mkdir(parents=True)
    (stage / "recipe.json").touch()
    (stage / "blocks/0.json").touch()
    assert generated(tmp_path).hash == whole


def test_only_a_folder_of_policies_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="expected a folder of policies to replace"):
        retrain.train("tag", 4, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_training_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(name: str, seed: int, out: Path, progress: Any, new_prey: bool) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(behaviour, "train", train)
    with pytest.raises(KeyboardInterrupt):
        retrain.train("tag", 0, tmp_path / "zoo-tag")
    assert not (tmp_path / "zoo-tag").exists()


def test_workers_are_as_many_as_pay() -> None:
    assert make.plan("tag", "random", steps=10_000).best_workers(8) == 1
    assert make.plan("tag", "random", steps=50_000_000).best_workers(8) == 8
