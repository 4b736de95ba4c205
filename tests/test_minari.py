"""Minari opens what is written for it and what is stored here; what Minari holds can be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import minari
import numpy as np
import pytest
from commands import dom2data
from gymnasium.utils.env_checker import check_env
from small_datasets import stored, uneven

from dom2data import generate
from dom2data.convert import minari as ours
from dom2data.convert import minari_hook
from dom2data.dataset import Dataset, from_arrays
from dom2data.dataset import open as open_dataset
from dom2data.envs.joint import JointEnv
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.subsample import subsample
from dom2data.verify import verify

RAGGED = [4, 2, 4, 1, 3, 4]


def in_hdf5(dataset: Dataset, root: Path) -> minari.MinariDataset:
    path = ours.copy(dataset, root)
    return minari.load_dataset(path.relative_to(root).as_posix())


def in_zarr(dataset: Dataset, root: Path) -> minari.MinariDataset:
    return minari.load_dataset(dataset.id)


@pytest.mark.parametrize("opened", [in_hdf5, in_zarr])
def test_every_number_is_where_minari_looks_for_it(root: Path, opened: Callable[..., Any]) -> None:
    dataset = uneven(root)
    found = opened(dataset, root)
    assert (len(found), found.total_steps, found.minari_version) == (3, 14, "0.5.0")
    assert found.observation_space["zeta"].shape == (3,)
    assert (found.action_space["alpha"].low.min(), found.action_space["alpha"].high.max()) == (-2.0, 2.0)
    for i, (theirs, episode) in enumerate(zip(found, dataset.episodes(), strict=True)):
        assert theirs.id == i
        for n, (agent, size) in enumerate((("zeta", 3), ("alpha", 5))):
            np.testing.assert_array_equal(theirs.observations[agent], episode.observations[:, n, :size])
            np.testing.assert_array_equal(theirs.actions[agent], episode.actions[:, n])
        np.testing.assert_array_equal(theirs.rewards, episode.rewards.mean(axis=1))
        np.testing.assert_array_equal(theirs.infos["rewards"][1:], episode.rewards)
        assert (theirs.infos["rewards"][0] == 0).all()
        assert (theirs.terminations[-1], theirs.truncations[-1]) == (episode.terminated, episode.truncated)
        assert not (theirs.terminations[:-1] | theirs.truncations[:-1]).any()
    assert found.storage.metadata["agents"] == ["zeta", "alpha"]


@pytest.mark.parametrize("opened", [in_hdf5, in_zarr])
def test_minaris_own_operations(root: Path, opened: Callable[..., Any]) -> None:
    dataset = stored(root, RAGGED)
    found = opened(dataset, root)
    assert found.id in minari.list_local_datasets(compatible_minari_version=True)
    found.set_seed(0)
    sampled = found.sample_episodes(3)
    assert len({episode.id for episode in sampled}) == 3
    for episode in sampled:
        assert episode.observations["b"][0, 1] == episode.id  # the test's data: [1] is the episode
    short = found.filter_episodes(lambda episode: len(episode) < 4)
    assert (short.episode_indices.tolist(), short.total_steps) == ([1, 3, 4], 6)
    one, other = minari.split_dataset(found, [2, 4], seed=0)
    assert sorted((*one.episode_indices, *other.episode_indices)) == list(range(6))
    assert one.total_steps + other.total_steps == sum(RAGGED)
    noted = list(found.storage.get_episode_metadata(range(6)))
    assert [entry["total_steps"] for entry in noted] == RAGGED
    np.testing.assert_array_equal([entry["rewards_sum"] for entry in noted], dataset.returns)
    np.testing.assert_array_equal([entry["return_per_agent"] for entry in noted], dataset.agent_returns)
    np.testing.assert_allclose(noted[1]["rewards_std"], found[1].rewards.std(), rtol=1e-5)
    assert noted[1]["rewards_max"] == found[1].rewards.max()


def test_each_opens_alike(root: Path) -> None:
    """The attributes of the two are the same, so that code moves between them."""
    dataset = generate.generate(generate.plan("tag", "random", steps=100, root=root))
    one, other = (
        next(iter(opened(dataset, root).storage.get_episode_metadata([2]))) for opened in (in_hdf5, in_zarr)
    )
    assert set(one) == set(other)
    assert set(one["options"]) == set(other["options"]) == {"spawn_key", "rows", "row"}


@pytest.mark.parametrize("opened", [in_hdf5, in_zarr])
@pytest.mark.parametrize(
    ("env", "quality", "steps"), [("tag", "medium-expert", 150), ("halfcheetah", "random", 2000)]
)
def test_the_recovered_environment_plays_the_episode_again(
    root: Path, opened: Callable[..., Any], env: str, quality: str, steps: int
) -> None:
    whole = generate.generate(generate.plan(env, quality, steps=steps, root=root))
    found = opened(subsample(whole, 0.5, root=root), root)
    recovered = found.recover_environment()
    assert recovered.observation_space == found.observation_space
    assert recovered.action_space == found.action_space
    for episode in found:
        noted = next(iter(found.storage.get_episode_metadata([episode.id])))
        seen, _ = recovered.reset(seed=noted["seed"], options=noted["options"])
        for t in range(len(episode)):
            assert all((seen[agent] == episode.observations[agent][t]).all() for agent in seen)
            moves = {agent: moves[t] for agent, moves in episode.actions.items()}
            seen, reward, _, truncated, info = recovered.step(moves)
            assert reward == episode.rewards[t]
            assert (info["rewards"] == episode.infos["rewards"][t + 1]).all()
            assert truncated == episode.truncations[t]


@pytest.mark.parametrize("name", ["tag", "spread", "halfcheetah"])
def test_the_joint_environment_is_gymnasiums(name: str) -> None:
    env = JointEnv(name)
    check_env(env, skip_render_check=True)
    one, other = env.reset(seed=3)[0], env.reset(seed=3)[0]
    assert all((one[agent] == other[agent]).all() for agent in one)
    assert (env.reset()[0][env.team_spec.agent_names[0]] != one[env.team_spec.agent_names[0]]).any()
    with pytest.raises(ValueError, match="row"):
        env.reset(options={"rows": 2, "row": 2})
    assert JointEnv(name, render_mode="rgb_array").render().shape[2] == 3  # type: ignore[union-attr]


def test_without_a_seed_episodes_follow_from_the_last_one_given() -> None:
    """Also when the number of rows changes; without any, no two environments are alike."""

    def starts(seed: int | None) -> list[bytes]:
        env = JointEnv("tag")
        rows = [env.reset(seed=seed, options={"rows": 2})[0]]
        rows += [env.reset(options={"rows": n})[0] for n in (2, 1, 2)]
        return [row["predator_0"].tobytes() for row in rows]

    assert starts(3) == starts(3)
    assert len({*starts(3), *starts(None), *starts(None)}) == 12


def test_zarr_is_for_reading(root: Path) -> None:
    found = in_zarr(stored(root, RAGGED), root)
    for write in (found.storage.update_metadata, found.storage.update_episodes):
        with pytest.raises(ValueError, match="convert ID --to minari"):
            write([{}])
    verify(open_dataset("small", root))


@pytest.mark.parametrize("order", ["dom2data, minari", "minari, dom2data"])
def test_minari_learns_of_it_in_either_order(root: Path, order: str) -> None:
    stored(root, RAGGED)
    code = f"import {order}; print(len(minari.load_dataset('dom2/small-v0')))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("6\n", 0), run.stderr


def test_minari_is_not_imported_for_it() -> None:
    code = "import sys, dom2data; print([n for n in ('minari', 'numpy', 'zarr') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    "table", [None, {}, {"hdf5": print, "zarr": print}, ["hdf5"]], ids=["none", "empty", "taken", "list"]
)
def test_another_minari_is_left_as_it_is_with_a_warning(table: Any) -> None:
    module: ModuleType = SimpleNamespace() if table is None else SimpleNamespace(_registry=table)  # type: ignore[assignment]
    before = None if table is None else type(table)(table)
    with pytest.warns(UserWarning, match="convert ID --to minari"):
        minari_hook.register(module)
    assert getattr(module, "_registry", None) == before


def test_a_failed_write_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = stored(root, RAGGED)
    before = ours.copy(dataset, root)
    kept = {file: file.read_bytes() for file in before.rglob("*") if file.is_file()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ours, "_write_metadata", full)
    with pytest.raises((OSError, UserError), match="No space left"):
        ours.write(dataset, before, force=True)
    assert {file: file.read_bytes() for file in before.rglob("*") if file.is_file()} == kept
    assert [child.name for child in before.parent.iterdir() if "partial" in child.name] == []


def test_a_folder_that_minari_would_not_accept(root: Path) -> None:
    dataset = stored(root, RAGGED)
    with pytest.raises(UserError, match="needs the version"):
        ours.write(dataset, root / "dom2" / "small-minari")
    ours.copy(dataset, root)
    with pytest.raises(UserError, match="--force replaces it"):
        ours.write(dataset, root / "dom2" / "small-minari-v0")


def test_generate_for_minari(root: Path) -> None:
    command = ["generate", "--env", "tag", "--quality", "random", "--steps", "1000", "--store", "minari"]
    assert dom2data(*command).exit_code == 0
    assert len(minari.load_dataset("dom2/tag-random-minari-v0")) == 40
    again = dom2data(*command)
    assert (again.exit_code, "already complete: kept" in again.output) == (0, True)
    listed = json.loads(dom2data("list", "--json").stdout)
    assert [entry["id"] for entry in listed] == ["dom2/tag-random-v0"]
    shown = dom2data("show", "tag-random-minari")
    assert (shown.exit_code, "--from minari" in shown.output) == (3, True)
    (root / "dom2" / "tag-random-minari-v0" / "data" / "metadata.json").unlink()
    for words in (["list", "local"], ["show", "dom2/tag-random-v0"]):
        run = subprocess.run(
            [sys.executable, "-m", "minari.cli", *words], capture_output=True, text=True, check=True
        )
        assert "tag-random-v0" in run.stdout


def tag_like(episodes: int) -> Dataset:
    spec = EnvSpec("tag", ("p0", "p1", "p2"), (16,) * 3, 2, -1.0, 1.0, 25, "shared", {})
    rng, steps = np.random.default_rng(0), 25 * episodes
    return from_arrays(
        spec,
        rng.normal(size=(steps + episodes, 3, 16)).astype(np.float32),
        rng.uniform(-1, 1, (steps, 3, 2)).astype(np.float32),
        np.repeat(rng.normal(size=(steps, 1)), 3, axis=1).astype(np.float32),
        np.arange(episodes + 1) * 25,
    )


def written(dataset: Dataset, root: Path) -> tuple[float, float]:
    """Seconds to write it for Minari, and its size over that of the arrays."""
    whole = subsample(dataset, 1.0, out="whole", root=root)
    raw = sum(array.nbytes for array in whole.arrays().values())
    started = time.perf_counter()
    path = ours.copy(whole, root)
    seconds = time.perf_counter() - started
    return seconds, (path / "data" / "main_data.hdf5").stat().st_size / raw


def test_hdf5_is_at_most_twice_the_numbers(root: Path) -> None:
    _, ratio = written(tag_like(1_000), root)
    assert ratio < 2.0


@pytest.mark.benchmark
def test_forty_thousand_episodes_in_ninety_seconds(root: Path) -> None:
    seconds, ratio = written(tag_like(40_000), root)
    assert seconds < 90.0
    assert ratio < 2.0
