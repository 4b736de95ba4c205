"""Shards of a dataset, made apart and merged: the same bytes, and no way to merge the wrong ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import meeting
import pytest
from commands import dom2data

from dom2data import collect, generate, shards
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.executors import Processes
from dom2data.verify import verify

ID = "dom2/tag-random-medium-v0"


pytestmark = pytest.mark.usefixtures("small_blocks")


def plan(root: Path, env: str = "tag", quality: str = "random-medium", **how: Any) -> generate.Plan:
    return generate.plan(env, quality, **({"steps": 3_500} | how), root=root)


def merged(root: Path, others: tuple[Path, ...] = (), name: str = ID) -> Dataset:
    found = shards.found(name, [root, *others])
    return shards.merge(shards.planned(found, root), found)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_merged_shards_are_the_dataset(tmp_path: Path, n: int) -> None:
    """Seven blocks; of nine shards two have none."""
    whole = generate.generate(plan(tmp_path / "whole"))
    for k in reversed(range(1, n + 1)):
        shards.collect(plan(tmp_path / "parts"), k, n)
    made = merged(tmp_path / "parts")
    assert made.hash == whole.hash
    assert verify(made)
    assert not list((tmp_path / "parts/.dom2data/shards").rglob("*.json"))  # they are moved, not copied


def test_shards_from_other_disks_and_of_other_divisions(tmp_path: Path) -> None:
    whole = generate.generate(plan(tmp_path / "whole"))
    shards.collect(plan(tmp_path / "a"), 1, 2, executor=Processes(2))
    shards.collect(plan(tmp_path / "b"), 2, 3)
    shards.collect(plan(tmp_path / "b"), 3, 3)
    made = merged(tmp_path / "root", (tmp_path / "a", tmp_path / "b"))
    assert made.hash == whole.hash
    assert (tmp_path / "a/.dom2data/shards" / ID / "1-of-2/recipe.json").exists()  # left where they are


def test_a_root_named_twice_is_one(tmp_path: Path) -> None:
    shards.collect(plan(tmp_path / "root"), 1, 1)
    (tmp_path / "link").symlink_to(tmp_path / "root")
    made = merged(tmp_path / "root", (tmp_path / "root", tmp_path / "link", tmp_path / "root/../root"))
    assert verify(made)
    assert not list((tmp_path / "root/.dom2data/shards").rglob("*.json"))


def test_an_interrupted_shard_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun = generate.collect_block, []

    def interrupted(job: Any) -> Any:
        begun.append(job.block)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(generate, "collect_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shards.collect(plan(tmp_path), 1, 1)
    with pytest.raises(UserError, match=r"expected 7 blocks .*, found 2 \(from shards 1/1; missing: 2-6\)"):
        merged(tmp_path)
    assert shards.collect(plan(tmp_path), 1, 1)[1] == 7
    assert begun == [0, 1, 2, 2, 3, 4, 5, 6]
    assert merged(tmp_path).hash == generate.generate(plan(tmp_path / "whole")).hash


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected shards of dom2/tag-random-medium-v0 in .*, found none"):
        merged(tmp_path)
    shards.collect(plan(tmp_path), 1, 2)
    with pytest.raises(UserError, match=r"found 3 \(from shards 1/2; missing: 3-6\)"):
        merged(tmp_path)
    with pytest.raises(UserError, match="found another"):  # another recipe into the same shard
        shards.collect(plan(tmp_path, steps=4_000), 1, 2)
    shards.collect(plan(tmp_path / "b", seed=1, out=ID), 2, 2)
    with pytest.raises(UserError, match=r"2-of-2: expected seed 0 as in 1-of-2, found 1") as error:
        merged(tmp_path, (tmp_path / "b",))
    assert error.value.code == 3
    shards.collect(plan(tmp_path), 2, 2)
    folder = tmp_path / ".dom2data/shards" / ID / "2-of-2"
    chunk = folder / "dataset/data/actions/c/4/0/0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-5] + b"\0" + content[-4:])
    with pytest.raises(UserError, match="expected block 4 with the hash noted, found it damaged") as error:
        merged(tmp_path)
    assert error.value.code == 3
    chunk.write_bytes(content)
    assert merged(tmp_path).n_episodes == 140
    with pytest.raises(UserError, match="expected a new id"):
        shards.collect(plan(tmp_path), 1, 2)


def test_what_cannot_be_divided(tmp_path: Path) -> None:
    for text in ("3", "0/2", "3/2", "a/b", "1/0"):
        with pytest.raises(UserError, match="expected --shard k/n"):
            shards.parse(text)
    with pytest.raises(UserError, match="expected a quality of independent blocks"):
        shards.collect(generate.plan("tag", "medium-replay", root=tmp_path), 1, 2)
    with pytest.raises(UserError, match="expected a folder to work in"):
        shards.collect(generate.plan("tag", "random", steps=500, root="memory://shards"), 1, 2)


def test_ragged_shards_are_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many blocks it takes is known only when they have been played; merging plays the few left.

    The first blocks have 4,077, 4,060 and 4,243 steps: three make the dataset, and the first shard, which has
    its half of the steps with one of them, does not play the third.
    """
    meet = meeting.written(tmp_path)
    whole = generate.generate(plan(tmp_path / "whole", meet, "random", steps=8_140))
    for k in (1, 2):
        shards.collect(plan(tmp_path / "parts", meet, "random", steps=8_140), k, 2)
    played: list[int] = []
    real = collect.collect_block
    monkeypatch.setattr(collect, "collect_block", lambda job: played.append(job.block) or real(job))
    assert merged(tmp_path / "parts", name=whole.id).hash == whole.hash
    assert played == [2]


def test_what_shards_have_needs_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meet = meeting.written(tmp_path)
    for todo in (plan(tmp_path), plan(tmp_path, meet, "random", steps=4_000)):
        shards.collect(todo, 1, 1)
        free = 5_000 if not todo.ragged else todo.nbytes - 1  # of ragged ones the arrays lie there as well
        usage = shutil._ntuple_diskusage(free, 0, free)  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            assert merged(tmp_path, name=todo.dataset_id).id == todo.dataset_id


def test_the_commands(tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        result = dom2data(*words, "--root", tmp_path)
        assert result.exit_code == code, result.output
        return result.output

    asked = ("generate", "--env", "tag", "--quality", "random", "--steps", "2000", "--workers", "1")
    assert "merge dom2/tag-random-v0" in run(*asked, "--shard", "1/2")
    assert "missing: 2-3" in run("merge", "tag-random", code=1)
    said = run(*asked, "--shard", "2/2", "--json")
    facts = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert (facts["shard"], facts["blocks"]) == ("2/2", 2)
    assert "dom2/tag-random-v0" in run("merge", "tag-random")
    assert "expected one dataset with --shard" in run(
        "generate", "--env", "tag", "--quality", "random,medium", "--shard", "1/2", code=2
    )
