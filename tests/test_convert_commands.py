"""``dom2data convert`` and ``import``, on recorded data of the environments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import dom2data

from dom2data import dataset
from dom2data.convert import FORMATS, omar


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with 1,000 steps of tag and of HalfCheetah."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("root")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        for env in ("tag", "halfcheetah"):
            made = dom2data("generate", "--env", env, "--quality", "random", "--steps", 1000, "--workers", 1)
            assert made.exit_code == 0, made.output
        yield folder


@pytest.mark.parametrize("env", ["tag", "halfcheetah"])
def test_there_and_back_under_the_environments_name(env: str, root: Path, tmp_path: Path) -> None:
    there = dom2data("convert", f"{env}-random", "--to", "omar", "--out", tmp_path)
    assert there.exit_code == 0, there.output
    assert str(tmp_path / "seed_0_data") in there.stdout
    (tmp_path / "seed_0_data" / "dom2.json").unlink()  # as a published folder would be
    back = dom2data("import", tmp_path, "--from", "omar", "--env", env, "--out", f"{env}-back")
    assert back.exit_code == 0, back.output
    assert "order of actions agrees" in back.stderr
    assert f"taken to be {env}" in back.stderr
    assert dataset.open(f"{env}-back").hash == dataset.open(f"{env}-random").hash
    assert dom2data("verify", f"{env}-back").exit_code == 0


def test_force_replaces_results_and_nothing_else(root: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/notes.txt").write_text("mine")
    for format_ in ("npz", "torchrl"):
        words = ("convert", "tag-random", "--to", format_, "--out", tmp_path / "results", "--force")
        result = dom2data(*words)
        assert result.exit_code == 2
        assert "expected to replace an earlier result, found notes.txt in" in result.output
        assert (tmp_path / "results/notes.txt").read_text() == "mine"
    for _ in range(2):
        again = dom2data("convert", "tag-random", "--to", "torchrl", "--out", tmp_path / "new", "--force")
        assert again.exit_code == 0


def test_reversed_actions_are_found_out(root: Path, tmp_path: Path) -> None:
    omar.write(dataset.open("halfcheetah-random"), tmp_path)
    for i in range(2):
        file = tmp_path / "seed_0_data" / f"acs_{i}.npy"
        np.save(file, np.load(file)[:, ::-1])
    result = dom2data("import", tmp_path, "--from", "omar", "--env", "halfcheetah", "--out", "reversed")
    assert result.exit_code == 3
    assert "actions of agent 0" in result.stderr
    assert "order (2, 1, 0)" in result.stderr
    assert not (root / "dom2" / "reversed-v0").exists()
    assert (
        dom2data("import", tmp_path, "--from", "omar", "--out", "reversed").exit_code == 3
    )  # our note names it, too


def test_another_environments_data_are_refused(root: Path, tmp_path: Path) -> None:
    dom2data("convert", "tag-random", "--to", "npz", "--out", tmp_path / "tag.npz")
    result = dom2data("import", tmp_path / "tag.npz", "--from", "npz", "--env", "spread")
    assert result.exit_code == 3
    assert "expected observations as float32" in result.stderr


def test_formats_are_named_where_one_is_not_known(root: Path) -> None:
    result = dom2data("convert", "tag-random", "--to", "hdf4")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in FORMATS)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--from", "omar", "--option", "sed=1"], "did you mean seed?"),
        (["--from", "omar", "--option", "seed"], "found 'seed'"),
        (["--from", "omar", "--option", "seed=-1"], "seed to be a number of 0 or more"),
        (["--from", "omar", "--option", "clip=yes"], "clip to be true or false"),
        (["--from", "omar", "--option", "prey=eat"], "prey to be drop or keep"),
        (["--from", "omar", "--env", "tug"], "expected an environment"),
        (["--from", "omar", "--out", "../up"], "expected an id"),
        ([], "expected --from FORMAT"),
    ],
)
def test_usage(words: list[str], found: str, root: Path, tmp_path: Path) -> None:
    omar.write(dataset.open("tag-random"), tmp_path)
    result = dom2data("import", tmp_path, *words)
    assert result.exit_code == 2
    assert found in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_id_that_is_taken_stays(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "tag-random.npz"
    dom2data("convert", "tag-random", "--to", "npz", "--out", path)
    before = dataset.open("tag-random").manifest
    result = dom2data("import", path, "--from", "npz")  # the file's name is the id's
    assert result.exit_code == 2
    assert "--force replaces it" in result.stderr
    assert dataset.open("tag-random").manifest == before


def test_json_is_the_datasets_record(root: Path, tmp_path: Path) -> None:
    dom2data("convert", "tag-random", "--to", "d4rl", "--out", tmp_path / "a.hdf5")
    result = dom2data("import", tmp_path / "a.hdf5", "--from", "d4rl", "--out", "again", "--json")
    record = json.loads(result.stdout)
    assert record["id"] == "dom2/again-v0"
    assert record["hash"] == dataset.open("tag-random").hash


def test_a_missing_package_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorstore", None)
    monkeypatch.delitem(sys.modules, "dom2data.convert.vault", raising=False)
    result = dom2data("convert", "tag-random", "--to", "vault", "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "tensorstore" in result.stderr
    assert "pip install" in result.stderr


def test_two_seeds_lie_beside_each_other(root: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        option = f"seed={seed}"
        made = dom2data("convert", "tag-random", "--to", "omar", "--out", tmp_path, "--option", option)
        assert made.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0_data", "seed_1_data"]
