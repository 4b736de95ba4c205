"""The six qualities as data, and the blocks they become."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import meeting
import numpy as np
import pytest
from commands import dom2data
from hypothesis import given
from hypothesis import strategies as st

from dom2_policies import zoo
from dom2data import envs, recipes
from dom2data.collect import Job, collect_block, share
from dom2data.errors import UserError
from dom2data.generate import plan


def test_the_six_qualities() -> None:
    assert list(recipes.QUALITIES) == [
        "random", "random-medium", "medium-replay", "medium", "medium-expert", "expert",
    ]  # fmt: skip
    for quality in recipes.QUALITIES.values():
        assert quality.replay != (sum(part for _, part in quality.parts) == 1.0)


def test_an_unknown_quality_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"found 'expret'; did you mean expert\?"):
        recipes.quality("expret")


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_every_block_is_half_and_half_and_so_is_the_whole(sizes: list[int]) -> None:
    ends = np.cumsum(sizes)
    blocks = [share([0.5, 0.5], int(b - n), int(b)) for n, b in zip(sizes, ends, strict=True)]
    assert all(
        sum(block) == n and abs(block[0] - block[1]) <= 1 for block, n in zip(blocks, sizes, strict=True)
    )
    first, second = (sum(block[i] for block in blocks) for i in (0, 1))
    assert 0 <= first - second <= 1


def test_a_recipe_is_json_and_says_everything() -> None:
    recipe = plan("tag", "medium-expert", steps=1001, seed=3).recipe.to_json()
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["steps"] == 1001
    assert recipe["noise"] == zoo.entry("tag")["noise"]
    assert recipe["policies"] == {name: zoo.sha256("tag", name) for name in ("medium", "expert")}
    assert {"env", "quality", "seed", "fingerprint", "versions"} < set(recipe)


def test_a_plan_rounds_up_to_whole_episodes() -> None:
    todo = plan("tag", "random", steps=1001)
    assert (todo.episodes, todo.layouts["actions"].shape) == (41, (1025, 3, 2))
    assert todo.recipe.policies == {}
    assert plan("tag", "medium").episodes == 40_000
    replay = plan("tag", "medium-replay")
    assert replay.replay
    assert replay.expected_steps == zoo.entry("tag")["policies"]["medium"]["env_steps"]


def test_a_recipe_has_the_level_that_a_folder_of_checkpoints_sets(tmp_path: Path) -> None:
    """Where none is published, what medium-replay holds follows from it."""
    document = json.loads((zoo.FOLDER / "zoo.json").read_text())
    levels = []
    for name, level in (("one", 250.0), ("two", 300.0)):
        (tmp_path / name).mkdir()
        changed = {"spread-4": document["spread"] | {"medium_level": level}, "tag": document["tag"]}
        (tmp_path / name / "zoo.json").write_text(json.dumps(changed))
        found = plan("spread-4", "medium-replay", checkpoints_in=tmp_path / name)
        levels.append(found.recipe.to_json()["level"])
        assert "level" not in plan("tag", "medium-replay", checkpoints_in=tmp_path / name).recipe.to_json()
    assert levels == [250.0, 300.0]


def test_an_altered_checkpoint_is_refused(tmp_path: Path) -> None:
    altered = tmp_path / "zoo"
    shutil.copytree(zoo.FOLDER, altered)
    with (altered / "tag-expert.safetensors").open("ab") as file:
        file.write(b"\0")
    plan("tag", "medium", checkpoints_in=altered)
    with pytest.raises(UserError, match="expected sha256") as error:
        plan("tag", "expert", checkpoints_in=altered)
    assert error.value.code == 3


def job(
    block: int,
    *,
    policies: tuple[Path | None, ...] = (None,),
    episodes: tuple[int, ...] = (6,),
    seed: int = 0,
) -> Job:
    return Job("tag", policies, episodes, 0.1, seed, block)


def test_blocks_follow_from_seed_and_number_alone() -> None:
    first, again, other, reseeded = (
        collect_block(job(*which)) if len(which) == 1 else collect_block(job(which[0], seed=which[1]))
        for which in ((0,), (0,), (1,), (0, 1))
    )
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    for name in ("observations", "actions", "rewards"):
        assert (first[name] != other[name]).any()
        assert (first[name] != reseeded[name]).any()


def test_a_mixture_keeps_its_parts_apart() -> None:
    """The second half acts as its checkpoint does: noise of 0.1 about a deterministic action."""
    import torch

    from dom2_policies.policy import load_actor

    expert = zoo.path("tag", "expert")
    arrays = collect_block(job(0, policies=(None, expert), episodes=(40, 40)))
    assert arrays["source"].tolist() == [0] * 40 + [1] * 40
    assert arrays["truncated"].all()
    assert not arrays["terminated"].any()
    episodes = arrays["observations"].reshape(80, 26, 3, 16)[:, :-1].reshape(-1, 3, 16)
    deterministic = load_actor(expert).act(torch.from_numpy(episodes), torch.Generator()).numpy()
    inside = np.abs(deterministic) < 0.5  # clamping leaves these alone
    spread = (arrays["actions"] - deterministic).reshape(2, -1)[:, :].copy()
    noise = spread[1][inside.reshape(2, -1)[1]]
    assert noise.std() == pytest.approx(0.1, rel=0.1)
    assert abs(noise.mean()) < 0.02
    uniform = arrays["actions"].reshape(2, -1)[0]
    assert np.histogram(uniform, bins=4, range=(-1, 1))[0] / uniform.size == pytest.approx(
        [0.25] * 4, abs=0.02
    )


@pytest.mark.parametrize("same", [True, False])
def test_references_of_another_version_of_an_environment_are_left_out(tmp_path: Path, same: bool) -> None:
    name = meeting.written(tmp_path)
    folder = meeting.checkpoints(tmp_path / "zoo", name)
    entry = json.loads((folder / "zoo.json").read_text())
    entry[name]["fingerprint"] = envs.spec(name).fingerprint if same else "0123456789abcdef"
    (folder / "zoo.json").write_text(json.dumps(entry))
    words = ["generate", "--env", name, "--quality", "expert", "--steps", "40", "--checkpoints", str(folder)]
    result = dom2data(*words, "--root", str(tmp_path / "root"), "--json")
    assert result.exit_code == 0, result.output
    assert ("another version of" in result.stderr) is not same
    own = json.loads(result.stdout)["references"]["own"]
    assert own == ({"random": -9.0, "expert": -5.0} if same else None)
