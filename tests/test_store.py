"""The store on disk: layout, hashes, damage, commit."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import minari
import numpy as np
import pytest
import zarr
from minari.serialization import deserialize_space
from small_datasets import in_memory, stored

from dom2data import ids
from dom2data.catalog import catalog
from dom2data.dataset import open as open_dataset
from dom2data.errors import UserError
from dom2data.store import manifest as manifests
from dom2data.store import stage as stages
from dom2data.store.layout import block_episodes, layout
from dom2data.subsample import subsample
from dom2data.verify import verify

RAGGED = [4, 2, 4, 1, 3, 4]


def data_of(root: Path, name: str = "dom2/small-v0") -> Path:
    return root / name / "data"


def code_of(error: pytest.ExceptionInfo[UserError]) -> int:
    assert "\n" not in str(error.value)
    return error.value.code


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written, found = in_memory(RAGGED), stored(tmp_path, RAGGED)
    for name, values in written.arrays().items():
        np.testing.assert_array_equal(open_dataset("small", tmp_path).array(name), values, err_msg=name)
        assert found.array(name).dtype == values.dtype
    assert len(found) == 18
    assert found.n_episodes == 6
    assert found.spec == written.spec


@pytest.mark.filterwarnings("ignore:Object at")
def test_the_hash_is_the_documented_tree(tmp_path: Path) -> None:
    """Computed here from the documentation alone, on the arrays as plain Zarr reads them."""
    found = stored(tmp_path, [1000, 3] * 40, horizon=1000)
    assert max(len(entry["leaves"]) for entry in found.manifest["arrays"].values()) > 1

    def digest(value: bytes) -> str:
        return hashlib.blake2b(value, digest_size=32).hexdigest()

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    group = zarr.open_group(data_of(tmp_path), mode="r")
    hashes = {}
    for name, array in group.arrays():
        values, rows = array[:], found.manifest["arrays"][name]["chunk_rows"]
        chunks = [values[i : i + rows] for i in range(0, len(values), rows)]
        head = {"name": name, "dtype": str(values.dtype), "shape": list(values.shape), "chunk_rows": rows}
        hashes[name] = digest(canonical(head | {"leaves": [digest(c.tobytes()) for c in chunks]}))
    assert digest(canonical({"spec": found.manifest["spec"], "arrays": hashes})) == found.hash


def test_the_hash_of_known_values_stays_the_same(tmp_path: Path) -> None:
    """If this fails, every published hash has changed: raise the schema's number and say so."""
    values = in_memory([4, 4])
    for name in ("observations", "actions", "rewards", "returns", "agent_returns"):
        values.array(name)[...] = np.arange(values.array(name).size).reshape(values.array(name).shape) / 8
    found = subsample(values, 1.0, out="known", root=tmp_path)
    assert found.hash == "e9725383698bb514e9716ae0d8224f35272e0bffdcf7d9114fd89628ab8d2f79"


@pytest.mark.filterwarnings("ignore:Object at")
def test_every_array_has_a_checksum_and_every_chunk_a_file(tmp_path: Path) -> None:
    stored(tmp_path, [4, 4])  # no episode terminated: that array is all zeros
    for name, array in zarr.open_group(data_of(tmp_path), mode="r").arrays():
        assert [type(codec).__name__ for codec in array.compressors] == ["Crc32cCodec"], name
        assert array.nchunks_initialized == array.nchunks, name


@pytest.mark.parametrize("array", ["observations", "terminated", "offsets"])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, array: str) -> None:
    stored(tmp_path, RAGGED)
    chunk = next(path for path in sorted((data_of(tmp_path) / array / "c").rglob("*")) if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UserError, match=f"array '{array}', chunk 0") as error:
        open_dataset("small", tmp_path).arrays()
    assert code_of(error) == 3
    with pytest.raises(UserError, match=f"array '{array}', chunk 0") as error:
        verify(open_dataset("small", tmp_path))
    assert code_of(error) == 3


def test_a_lost_chunk_is_not_read_as_zeros(tmp_path: Path) -> None:
    stored(tmp_path, [1000] * 60, horizon=1000)
    (data_of(tmp_path) / "rewards" / "c" / "1" / "0").unlink()
    with pytest.raises(UserError, match="array 'rewards', chunk 1: expected its file") as error:
        open_dataset("small", tmp_path).array("rewards")
    assert code_of(error) == 3


@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (lambda data: (data / "COMPLETE").unlink(), "the marker COMPLETE, found none"),
        (lambda data: (data / "manifest.json").unlink(), "a readable manifest.json"),
        (lambda data: (data / "manifest.json").write_text("{"), "a readable manifest.json"),
        (lambda data: (data / "manifest.json").write_text('{"schema": "x/9"}'), "found 'x/9'"),
        (lambda data: (data / "COMPLETE").write_text("0" * 64), "a different one"),
    ],
)
def test_an_incomplete_or_foreign_directory_is_refused(tmp_path: Path, break_it, found: str) -> None:  # type: ignore[no-untyped-def]
    stored(tmp_path, RAGGED)
    break_it(data_of(tmp_path))
    with pytest.raises(UserError, match=found) as error:
        open_dataset("small", tmp_path)
    assert code_of(error) == 3


@pytest.mark.parametrize(
    ("name", "row", "value", "found"),
    [
        ("actions", 1, 7.0, "actions in"),
        ("observations", 2, np.nan, "observations: expected finite values, found nan at \\(2, 0, 0\\)"),
        ("returns", 3, 5.0, "episode 3: expected returns"),
        ("rewards", 0, 9.0, "episode 0: expected returns"),
        ("truncated", 0, False, "episode 0: expected terminated or truncated"),
    ],
)
def test_verify_finds_what_hashes_cannot(
    tmp_path: Path, name: str, row: int, value: float, found: str
) -> None:
    """Wrong values with right hashes: what a faulty generator would write."""
    wrong = in_memory(RAGGED)
    wrong.array(name)[row] = value
    with pytest.raises(UserError, match=found) as error:
        verify(subsample(wrong, 1.0, out="wrong", root=tmp_path))
    assert code_of(error) == 3


def test_verify_passes_what_is_right(tmp_path: Path) -> None:
    checks = ["structure", "hashes", "episodes", "values", "returns", "lineage"]
    assert verify(stored(tmp_path, RAGGED)) == checks


def test_verify_hashes_once_and_what_was_read_before_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, RAGGED)
    found, hashed, real = open_dataset("small", tmp_path), [], manifests.leaves
    monkeypatch.setattr(
        manifests, "leaves", lambda array, values: hashed.append(array) or real(array, values)
    )
    assert verify(found)
    assert len(hashed) == len(found.manifest["arrays"])
    found.array("actions")[1] += 0.125  # in memory, after it was compared
    with pytest.raises(UserError, match="hashes: array 'actions', chunk 0: expected hash"):
        verify(found)


def test_minari_lists_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    stored(tmp_path, RAGGED)
    (tmp_path / ".dom2data" / "stage" / "dom2" / "begun-v0" / "dataset" / "data").mkdir(parents=True)
    listed = minari.list_local_datasets(compatible_minari_version=True)
    assert list(listed) == ["dom2/small-v0"]
    assert listed["dom2/small-v0"]["total_episodes"] == 6
    assert deserialize_space(listed["dom2/small-v0"]["observation_space"])["c"].shape == (5,)
    action_space = deserialize_space(listed["dom2/small-v0"]["action_space"])["c"]
    assert (action_space.low.min(), action_space.high.max()) == (-1.0, 1.0)


def test_nothing_is_replaced_without_force_and_lost_with_it(tmp_path: Path) -> None:
    first = stored(tmp_path, RAGGED)
    with pytest.raises(UserError, match="--force replaces it") as error:
        stored(tmp_path, RAGGED, seed=1)
    assert code_of(error) == 2
    assert open_dataset("small", tmp_path).hash == first.hash
    second = subsample(in_memory(RAGGED, seed=1), 1.0, out="small", root=tmp_path, force=True)
    assert second.hash != first.hash
    assert open_dataset("small", tmp_path).hash == second.hash
    assert not list((tmp_path / ".dom2data" / "stage").rglob("*.json"))


@pytest.mark.parametrize("rename", [1, 2])
def test_a_commit_killed_between_its_renames_keeps_the_old_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    first = stored(tmp_path, RAGGED)
    replace, calls = os.replace, []

    def dies(source: Path, target: Path) -> None:
        calls.append(target)
        if sum(Path(t).name in ("replaced", "small-v0") for t in calls) == rename:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(stages.os, "replace", dies)
    again = in_memory(RAGGED, seed=1)
    with pytest.raises(KeyboardInterrupt):
        subsample(again, 1.0, out="small", root=tmp_path, force=True)
    monkeypatch.undo()
    with pytest.raises(UserError, match="--force"):
        subsample(again, 1.0, out="small", root=tmp_path)
    assert open_dataset("small", tmp_path).hash == first.hash
    assert subsample(again, 1.0, out="small", root=tmp_path, force=True).hash != first.hash


def test_a_commit_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: waited.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    dataset = stored(tmp_path, RAGGED)
    files = {path.name for path in data_of(tmp_path).rglob("*") if path.is_file()}
    assert {"manifest.json", "COMPLETE", "zarr.json"} <= files
    assert len(waited) > len(dataset.manifest["arrays"])
    assert any(path.endswith("manifest.json") for path in waited)


def test_one_writer_per_id(tmp_path: Path) -> None:
    with stages.open_stage("dom2/small-v0", tmp_path):
        with pytest.raises(UserError, match="another process") as error:
            stored(tmp_path, RAGGED)
        assert code_of(error) == 1
        stored(tmp_path, RAGGED, name="other")


def test_a_block_is_one_chunk_of_every_array() -> None:
    spec = in_memory([4]).spec
    arrays = layout(spec, 25_001, 100_004)
    assert {array.n_chunks for name, array in arrays.items() if name != "offsets"} == {3}
    assert arrays["observations"].chunk_rows == block_episodes(4) * 5
    assert (block_episodes(25), block_episodes(1000)) == (2_500, 50)


def test_ids() -> None:
    assert ids.full("tag-medium") == "dom2/tag-medium-v0"
    assert ids.full("mine/tag-v3") == "mine/tag-v3"
    assert ids.split("a-b/c/tag-5pct-v12") == ("a-b/c", "tag-5pct", 12)
    for bad in ("", "/x", "../x", "a/../b", "tag medium", "x/", ".hidden", "m/tag"):
        with pytest.raises(UserError, match="expected an id"):
            ids.split(bad)


def test_no_folder_hides_a_dataset(tmp_path: Path) -> None:
    stored(tmp_path, [4])
    (tmp_path / "data").mkdir()
    (tmp_path / "dom2/data").mkdir()
    assert list(ids.existing(tmp_path)) == ["dom2/small-v0"]
    for inside in ("dom2/data/x", "dom2/small-v0/x"):
        with pytest.raises(UserError, match="expected a namespace without"):
            ids.split(inside)


def test_a_dataset_may_lie_on_another_disk(tmp_path: Path) -> None:
    hash_ = stored(tmp_path / "disk", [4]).hash
    root = tmp_path / "root"
    (root / "dom2").mkdir(parents=True)
    (root / "dom2/small-v0").symlink_to(tmp_path / "disk/dom2/small-v0")
    (root / "dom2/up").symlink_to(root)
    (root / "disk").symlink_to(tmp_path / "disk")
    assert list(ids.existing(root)) == ["disk/dom2/small-v0", "dom2/small-v0"]
    assert open_dataset("small", root).hash == hash_


def test_a_folder_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("small-v0", "theirs-v0"):
        stored(tmp_path, [4], name=name)

    def stat(path: Path, **how: bool) -> os.stat_result:
        if "theirs-v0/data/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os.stat(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    found, (refused,) = catalog(tmp_path)
    assert [entry["id"] for entry in found] == ["dom2/small-v0"]
    assert "theirs-v0/data: expected a folder that can be read, found Permission denied" in refused.message


def test_a_short_name_is_the_newest_version(tmp_path: Path) -> None:
    for name in ("small-v2", "small-v10", "small-5pct-v30"):
        stored(tmp_path, [4], name=name)
    assert open_dataset("small", tmp_path).id == "dom2/small-v10"
    assert open_dataset("dom2/small-v2", tmp_path).id == "dom2/small-v2"
    with pytest.raises(UserError, match=r"no dom2/smal; did you mean") as error:
        open_dataset("smal", tmp_path)
    assert code_of(error) == 2


def test_the_default_root_is_minaris(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from minari.storage.datasets_root_dir import get_dataset_path

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert ids.root() == get_dataset_path()
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ids.root() == get_dataset_path()
