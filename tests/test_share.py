"""One zip file: the same dataset comes out, and nothing else ever does."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import dom2data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import stored

from dom2data import catalog, dataset, ids, share
from dom2data.dataset import Dataset
from dom2data.errors import FAILED, UserError
from dom2data.store import manifest as manifests
from dom2data.verify import verify

PREFIX = "dom2/small-v0/data/"
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path, Path]:
    """A dataset, its root, and its zip file."""
    root = tmp_path_factory.mktemp("share")
    found = stored(root / "root", [4, 2, 3, 4, 1])
    return found, root / "root", share.pack(found, root / "root", root / "small.zip")


def members(file: Path) -> Members:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, files: Members, **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def resigned(files: Members, change: Callable[[dict[str, Any]], None]) -> Members:
    """With another manifest and a marker that belongs to it, as someone who means it would do."""
    manifest = json.loads(files[PREFIX + "manifest.json"])
    change(manifest)
    text = json.dumps(manifest).encode()
    marker = manifests.digest(text).encode()
    return files | {PREFIX + "manifest.json": text, PREFIX + "COMPLETE": marker}


def refused(file: Path, root: Path, code: int = 3) -> str:
    """The one line of the refusal; nothing may have been written."""
    before = set(root.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        share.unpack(file, root)
    assert error.value.code == code
    assert "\n" not in error.value.message
    new = {path for path in root.parent.rglob("*") if path not in before and path.is_file()}
    assert new <= set(root.rglob("*.lock"))
    assert not (root / "dom2").exists()
    return error.value.message


def test_round_trip(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    found, _, file = original
    came = share.unpack(file, tmp_path)
    assert (came.id, came.hash, came.manifest) == (found.id, found.hash, found.manifest)
    assert verify(came)
    data_here, data_there = ids.directory(found.id, tmp_path), ids.directory(found.id, original[1])
    for path in data_there.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (data_here / path.relative_to(data_there)).read_bytes()


def test_same_dataset_same_bytes(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    found, root, file = original
    os.utime(ids.directory(found.id, root) / "manifest.json", (0, 0))
    assert share.pack(found, root, tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_plain_unzip_in_a_root_gives_a_dataset(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(original[2]) as archive:
        archive.extractall(tmp_path)
    assert verify(dataset.open("small", tmp_path))


def test_repacked_by_another_program(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    file = zipped(tmp_path / "a.zip", members(original[2]), compression=zipfile.ZIP_DEFLATED)
    assert share.unpack(file, tmp_path / "root").hash == original[0].hash


def test_taken_id_and_force(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    share.unpack(original[2], tmp_path)
    with pytest.raises(UserError, match=r"expected a new id.*; --force replaces it, another --root") as error:
        share.unpack(original[2], tmp_path)
    assert error.value.code == 2
    assert share.unpack(original[2], tmp_path, force=True).hash == original[0].hash


def test_the_dataset_written_last_may_be_an_older_one(
    original: tuple[Dataset, Path, Path], tmp_path: Path
) -> None:
    """The one that came last, whenever it was created; what is not whole does not count."""
    for name in ("made", "broken"):
        stored(tmp_path, [4, 2], name=name)
    came = share.unpack(original[2], tmp_path)
    for name, when in (("made", 1), ("small", 2), ("broken", 3)):
        os.utime(tmp_path / f"dom2/{name}-v0/data/COMPLETE", ns=(when, when))
    (tmp_path / "dom2/broken-v0/data/manifest.json").unlink()
    assert catalog.newest(tmp_path).id == came.id


def test_damaged_dataset_is_not_exported(tmp_path: Path) -> None:
    found = stored(tmp_path, [4, 2])
    chunk = next((ids.directory(found.id, tmp_path) / "rewards" / "c").rglob("0"))
    chunk = next(path for path in [chunk, *chunk.rglob("*")] if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UserError) as error:
        share.pack(dataset.open("small", tmp_path), tmp_path, tmp_path / "a.zip")
    assert error.value.code == 3
    assert not list(tmp_path.glob("a.zip*"))


@pytest.mark.parametrize("when", [0, 5, 12])
def test_a_dataset_replaced_while_it_is_exported(tmp_path: Path, when: int) -> None:
    found, file = stored(tmp_path, [4, 2]), tmp_path / "a.zip"

    def replace(task: str, done: int, _: int) -> None:
        if done == when:
            stored(tmp_path, [4, 2], seed=1, force=True)

    with pytest.raises(UserError, match="as it was opened, found it replaced; start again") as error:
        share.pack(found, tmp_path, file, progress=replace)
    assert error.value.code == FAILED
    assert not list(tmp_path.glob("a.zip*"))
    with pytest.raises(UserError, match="found it replaced"):
        share.pack(found, tmp_path, file)  # its arrays have been read, its files are gone
    assert share.pack(dataset.open("small", tmp_path), tmp_path, file) == file


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "dom2/small-v0/data/../../../evil", "C:\\evil", "x"]
)
def test_names_that_lead_elsewhere(original: tuple[Dataset, Path, Path], tmp_path: Path, name: str) -> None:
    file = zipped(tmp_path / "a.zip", members(original[2]) | {name: b"evil"})
    assert "expected names below" in refused(file, tmp_path / "root")


@pytest.mark.parametrize("space", ["../..", "/tmp", "dom2/../..", ".dom2data/stage", "a//b"])
def test_ids_that_lead_elsewhere(original: tuple[Dataset, Path, Path], tmp_path: Path, space: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["id"] = f"{space}/small-v0"

    files = resigned(members(original[2]), change)
    moved = {name.replace("dom2/small-v0", f"{space}/small-v0"): text for name, text in files.items()}
    refused(zipped(tmp_path / "a.zip", moved), tmp_path / "root")


def set_entry(array: str, **entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["arrays"][array].update(entry)


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "gigantic shape": set_entry("actions", shape=[10**15, 3, 2], chunk_rows=10**15),
    "gigantic count": lambda m: m.update(episodes=10**12, steps=10**15),
    "negative shape": set_entry("rewards", shape=[-1, 3]),
    "zero chunk": set_entry("returns", chunk_rows=0),
    "objects": set_entry("rewards", dtype="object"),
    "another type": set_entry("rewards", dtype="int64"),
    "array called ..": lambda m: m["arrays"].update({"../../evil": m["arrays"]["source"]}),
    "array missing": lambda m: m["arrays"].pop("terminated"),
    "leaves missing": set_entry("rewards", leaves=[]),
    "leaves of another": set_entry("rewards", leaves=["0" * 64]),
    "schema": lambda m: m.update(schema="dom2data/0"),
    "steps as text": lambda m: m.update(steps="13"),
    "no spec": lambda m: m.pop("spec"),
    "spec of nothing": lambda m: m["spec"].update(agent_names=[], obs_dims=[]),
    "spec with more": lambda m: m["spec"].update(evil=1),
    "returns of nothing": lambda m: m.update(returns={}),
    "NaN": lambda m: m.update(wall_s=float("nan")),
    "no float": lambda m: m["spec"].update(act_low=-(10**400)),
    "no recipe": lambda m: m.update(recipe=None),
    "mean as a count": lambda m: m["returns"]["team"].update(mean=1),
    "created is a number": lambda m: m.update(created=5),
    "references of nothing": lambda m: m.update(references={"published": None}),
    "a parent of nothing": lambda m: m.update(parents=[{}]),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_manifests(original: tuple[Dataset, Path, Path], tmp_path: Path, how: str) -> None:
    files = resigned(members(original[2]), HOSTILE[how])
    refused(zipped(tmp_path / "a.zip", files), tmp_path / "root")


def test_what_cannot_be_opened_replaces_nothing(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    share.unpack(original[2], tmp_path)
    for change in (HOSTILE["references of nothing"], HOSTILE["a parent of nothing"]):
        file = zipped(tmp_path / "a.zip", resigned(members(original[2]), change))
        with pytest.raises(UserError):
            share.unpack(file, tmp_path, force=True)
        assert dataset.open("small", tmp_path).hash == original[0].hash


def test_a_renamed_folder_is_not_the_other_dataset(tmp_path: Path) -> None:
    stored(tmp_path, [4, 2])
    (tmp_path / "dom2/small-v0").rename(tmp_path / "dom2/other-v0")
    with pytest.raises(
        UserError, match=r"expected dom2/other-v0, found dom2/small-v0 in a folder .* renamed"
    ):
        dataset.open("other", tmp_path)


def test_manifest_that_is_no_json_or_very_deep(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    for text in (b"{", b"[" * 100_000, b"\xff\xfe", b"5"):
        files = members(original[2]) | {
            PREFIX + "manifest.json": text,
            PREFIX + "COMPLETE": manifests.digest(text).encode(),
        }
        refused(zipped(tmp_path / "a.zip", files), tmp_path / "root")


def test_metadata_with_another_codec(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    files, name = members(original[2]), PREFIX + "actions/zarr.json"
    found = json.loads(files[name])
    found["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
    files[name] = json.dumps(found).encode()
    assert "expected the codecs" in refused(zipped(tmp_path / "a.zip", files), tmp_path / "root")


def test_bomb(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    files = members(original[2]) | {PREFIX + "metadata.json": bytes(200_000_000)}
    file = zipped(tmp_path / "a.zip", files, compression=zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1_000_000
    assert "at most 20 times" in refused(file, tmp_path / "root")


def test_a_name_twice_and_two_datasets(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    files = members(original[2])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(PREFIX + "manifest.json", b"{}")
    assert "a name twice" in refused(tmp_path / "a.zip", tmp_path / "root")
    two = files | {"dom2/other-v0/data/COMPLETE": b""}
    assert "expected one dataset" in refused(zipped(tmp_path / "b.zip", two), tmp_path / "root")


def test_not_a_zip_file(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 not really")
    refused(tmp_path / "a.zip", tmp_path / "root")
    refused(tmp_path / "none.zip", tmp_path / "root", code=2)


def test_every_file_that_is_missing_is_missed(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    files = members(original[2])
    for lost in files:
        if lost != PREFIX + "metadata.json":  # written anew from the manifest
            rest = {name: text for name, text in files.items() if name != lost}
            refused(zipped(tmp_path / "a.zip", rest), tmp_path / "root")


def chunks(files: Members) -> list[str]:
    return sorted(name for name in files if "/c/" in name)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_anywhere_is_refused(
    original: tuple[Dataset, Path, Path], tmp_path_factory: pytest.TempPathFactory, draw: Any
) -> None:
    """In a chunk, and with the zip's own checksum made right again."""
    folder = tmp_path_factory.mktemp("flip")
    files = copy.copy(members(original[2]))
    name = draw.draw(st.sampled_from(chunks(files)))
    content = bytearray(files[name])
    bit = draw.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    files[name] = bytes(content)
    refused(zipped(folder / "a.zip", files), folder / "root")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_the_same(
    original: tuple[Dataset, Path, Path], tmp_path_factory: pytest.TempPathFactory, draw: Any
) -> None:
    """Bytes overwritten or cut off anywhere: one line, or (where nothing reads them) the same dataset."""
    folder = tmp_path_factory.mktemp("damage")
    content = bytearray(original[2].read_bytes())
    start = draw.draw(st.integers(0, len(content) - 1))
    noise = draw.draw(st.binary(min_size=1, max_size=64))
    content[start : start + len(noise)] = noise
    cut = draw.draw(st.integers(len(content) // 2, len(content)) | st.just(len(content)))
    (folder / "a.zip").write_bytes(content[:cut])
    try:
        came = share.unpack(folder / "a.zip", folder / "root")
    except UserError:
        refused(folder / "a.zip", folder / "root")
    else:
        assert came.hash == original[0].hash
        assert verify(came)


def test_what_came_before_an_interrupt_needs_no_more_room(
    original: tuple[Dataset, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, file = original
    monkeypatch.setattr(share, "_verified", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        share.unpack(file, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    assert share.unpack(file, tmp_path).hash == found.hash


def test_command(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    words = ["export", "small", str(tmp_path / "a.zip"), "--root", str(original[1])]
    done = dom2data(*words)
    assert done.exit_code == 0, done.stderr
    assert original[0].hash in done.stdout
    assert dom2data(*words).exit_code == 2
    assert dom2data(*words, "--force").exit_code == 0
    words[2] = str(tmp_path / "a.tar")
    assert "expected a file ending in .zip" in dom2data(*words).stderr


def test_killed_imports(original: tuple[Dataset, Path, Path], tmp_path: Path) -> None:
    """SIGKILL at several moments: afterwards nothing is listed, and a rerun copies only the rest."""
    code = (
        "import sys, time; from pathlib import Path; from dom2data import share\n"
        "copy = share._copy\n"
        "share._copy = lambda *a: (copy(*a), print('copied', flush=True), time.sleep(0.02))\n"
        "share.unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(original[2]), str(tmp_path)]
    for copied in (1, 8, 15):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(copied):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert list(ids.existing(tmp_path)) == []
    kept = {path.stat().st_ino for path in (tmp_path / ".dom2data").rglob("*") if "/c/" in str(path)}
    came = share.unpack(original[2], tmp_path)
    assert verify(came)
    assert came.hash == original[0].hash
    assert len(kept & {path.stat().st_ino for path in ids.directory(came.id, tmp_path).rglob("*")}) >= 5
    assert not (tmp_path / ".dom2data" / "stage" / "dom2").exists() or not any(
        path.is_file() for path in (tmp_path / ".dom2data" / "stage").rglob("*")
    )
