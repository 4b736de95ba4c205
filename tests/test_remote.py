"""Datasets behind URLs: a file, memory, and a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
from commands import dom2data
from small_datasets import stored

from dom2_cli import generating
from dom2data import catalog, dataset, generate, ids, share
from dom2data.dataset import Dataset
from dom2data.errors import FAILED, UserError
from dom2data.store import remote
from dom2data.store.manifest import MARKER
from dom2data.verify import verify


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one dataset."""
    folder = tmp_path_factory.mktemp("here")
    stored(folder, [4, 2, 3, 4, 1])
    return folder


@pytest.fixture
def small(root: Path) -> Dataset:
    return dataset.open("small", root)


def names(url: str) -> set[str]:
    """Every file below a URL."""
    place = remote.Place(url)
    place.fs.invalidate_cache()
    return {name[len(place.path) :].lstrip("/") for name in place.fs.find(place.path)}


def test_there_and_back(url: str, root: Path, small: Dataset, tmp_path: Path) -> None:
    share.push(small, root, url)
    assert names(url) == {f"{small.id}/data/{name}" for name in share.complete(small.manifest)}
    records, skipped = catalog.catalog(url)
    assert (records[0]["hash"], records[0]["path"], skipped) == (small.hash, f"{url}/{small.id}", [])
    there = dataset.open("small", url)
    assert verify(there)
    for name, array in small.arrays().items():
        np.testing.assert_array_equal(there.array(name), array)
    came = share.pull("small", url, tmp_path / "again")
    assert came.manifest == small.manifest
    assert verify(came)


def test_generate_to_a_url(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in a folder here, sent and removed; after an interrupted upload only sent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", url)
    words = ["generate", "--env", "tag", "--quality", "random", "--steps", "100"]
    assert dom2data(*words, "--dry-run").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_all_there", lambda *_: (_ for _ in ()).throw(Unplugged("unplugged")))
        assert "unplugged" in dom2data(*words).stderr
    assert catalog.catalog(url) == ([], [])
    (made,) = ids.existing(share.outgoing(url))
    assert dom2data(*words, "--dry-run").exit_code == 0  # makes and sends nothing
    assert list(ids.existing(share.outgoing(url))) == [made]
    assert dom2data(*words, "--out", "other").exit_code == 0
    assert [record["id"] for record in catalog.catalog(url)[0]] == ["dom2/other-v0", made]
    assert verify(dataset.open("tag-random"))
    assert list(ids.existing(share.outgoing(url))) == []
    for more in (("--shard", "1/2"), ("--store", "minari")):
        assert "expected a folder as root" in dom2data(*words, *more).stderr


def test_generate_to_a_url_again(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted upload has left is not made again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["generate", "--env", "tag", "--quality", "random", "--steps", "100", "--root", url]
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_all_there", lambda *_: (_ for _ in ()).throw(Unplugged("unplugged")))
        dom2data(*words)
    left = dataset.open("tag-random", share.outgoing(url)).manifest
    again = dom2data(*words)
    assert again.exit_code == 0
    assert "is already complete: kept" in again.stderr
    assert dataset.open("tag-random", url).manifest == left


def test_generate_to_a_url_that_has_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before any work, and of many kept; a copy that waits is removed, and stops no other dataset."""
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["generate", "--env", "tag", "--steps", "100", "--root", url, "--quality"]
    assert dom2data(*words, "random").exit_code == 0
    sent = dataset.open("tag-random", url).manifest
    with monkeypatch.context() as patch:
        patch.setattr(generating, "carry_out", lambda *_: pytest.fail("made again"))
        again = dom2data(*words, "random")
    assert (again.exit_code, "expected a new id, found " + url in again.stderr) == (2, True)
    made = generate.generate(generate.plan("tag", "random", steps=100, root=share.outgoing(url)))
    assert made.manifest["created"] != sent["created"]
    many = dom2data(*words, "random,medium", "--json")
    assert many.exit_code == 0, many.stderr
    assert "dom2/tag-random-v0 is already complete: kept" in many.stderr
    assert [record["path"] for record in json.loads(many.stdout)] == [
        f"{url}/dom2/tag-random-v0",
        f"{url}/dom2/tag-medium-v0",
    ]
    assert dataset.open("tag-random", url).manifest == sent
    assert list(ids.existing(share.outgoing(url))) == []


def test_what_is_refused_or_fails_stops_no_other(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    here = share.outgoing(url)
    other = generate.generate(generate.plan("tag", "random", steps=50, root=tmp_path, out="taken"))
    share.push(other, tmp_path, url)
    for name in ("taken", "waiting"):
        generate.generate(generate.plan("tag", "random", steps=100, root=here, out=name))
    real = generating.carry_out

    def full(plan: Any, *how: Any) -> Dataset:
        if plan.recipe.env == "tag":
            raise UserError("expected room, found the disk full", FAILED)
        return real(plan, *how)

    monkeypatch.setattr(generating, "carry_out", full)
    words = ["generate", "--env", "tag,spread", "--quality", "random", "--steps", "100", "--root", url]
    result = dom2data(*words)
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert "without dom2/tag-random-v0" in line
    assert f"`dom2data push dom2/taken-v0 {url} --root {here} --force` replaces it" in line
    assert [record["id"] for record in catalog.catalog(url)[0]] == [
        "dom2/spread-random-v0",
        "dom2/taken-v0",
        "dom2/waiting-v0",
    ]
    assert list(ids.existing(here)) == ["dom2/taken-v0"]


def test_nothing_there(url: str, tmp_path: Path) -> None:
    assert catalog.catalog(url) == ([], [])
    with pytest.raises(UserError, match="found no dom2/small") as error:
        share.pull("small", url, tmp_path)
    assert error.value.code == 2


def test_commands(url: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "here"))

    def run(*words: str, code: int = 0) -> str:
        result = dom2data(*words)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    run("push", "small", url, "--root", str(root))
    run("push", "small", url, "--root", str(root))  # already there, and the same
    assert json.loads(run("list", "--root", url, "--json"))[0]["id"] == "dom2/small-v0"
    assert json.loads(run("show", "small", "--root", url, "--json"))["episodes"] == 5
    assert "ok" in run("verify", "small", "--root", url)
    run("pull", "small", url, "--root", str(tmp_path / "new"))
    assert "expected a new id" in run("pull", "small", url, "--root", str(tmp_path / "new"), code=2)
    assert "small-minari-v0" in run(
        "convert", "small", "--to", "minari", "--root", url
    )  # into the folder here
    assert (tmp_path / "here/dom2/small-minari-v0/data/main_data.hdf5").exists()
    line = run("subsample", "--fraction", "0.5", "--dataset", "small", "--root", url, code=2)
    assert "error: expected a folder to work in, found the URL" in line


def test_another_dataset_in_the_way(url: str, root: Path, small: Dataset, tmp_path: Path) -> None:
    share.push(small, root, url)
    other = stored(tmp_path / "other", [2, 2], seed=1)
    with pytest.raises(UserError, match="--force replaces it") as error:
        share.push(other, tmp_path / "other", url)
    assert error.value.code == 2
    assert dataset.open("small", url).hash == small.hash
    share.push(other, tmp_path / "other", url, force=True)
    assert dataset.open("small", url).hash == other.hash
    assert names(url) == {f"{other.id}/data/{name}" for name in share.complete(other.manifest)}


def test_interrupted_while_it_replaces_another(
    url: str, root: Path, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers see the old dataset, none, or the new one."""
    share.push(small, root, url)
    other = stored(tmp_path / "other", [2, 2], seed=1)
    put, left = remote._put, iter(range(3))

    def cut(*what: Any) -> None:
        if next(left, None) is None:
            raise Unplugged("unplugged")
        put(*what)

    monkeypatch.setattr(remote, "_put", cut)
    with pytest.raises(UserError, match="unplugged"):
        share.push(other, tmp_path / "other", url, force=True)
    monkeypatch.setattr(remote, "_put", put)
    assert catalog.catalog(url) == ([], [])
    share.push(other, tmp_path / "other", url, force=True)
    assert dataset.open("small", url).hash == other.hash
    assert verify(dataset.open("small", url))


class Unplugged(Exception):
    """The network goes away."""


def test_interrupted_upload_is_no_dataset_and_continues(
    url: str, root: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again: nothing is listed, and the next call sends only what is missing."""
    files, sent, budget = share.complete(small.manifest), list[str](), 5
    really = remote._put

    def put(place: remote.Place, here: share.Opened, name: str, folder: str) -> None:
        if len(sent) == budget:
            raise Unplugged("unplugged")
        sent.append(name)
        really(place, here, name, folder)

    monkeypatch.setattr(remote, "_put", put)
    for _ in range(4):
        sent.clear()
        with pytest.raises(UserError, match="found: unplugged") as error:
            share.push(small, root, url)
        assert error.value.code == 1
        assert catalog.catalog(url) == ([], [])
    before, budget = len(names(url)) - 1, 1000  # without the note
    sent.clear()
    share.push(small, root, url)
    assert len(sent) == len(files) - before
    assert verify(dataset.open("small", url))
    assert remote.UPLOADING not in " ".join(names(url))


def test_rest_of_another_upload_is_not_mixed_in(
    url: str, root: Path, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = stored(tmp_path / "other", [4, 2, 3, 4, 1], seed=5)  # of the same shapes and sizes
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_all_there", lambda *_: (_ for _ in ()).throw(Unplugged("unplugged")))
        with pytest.raises(UserError, match="unplugged"):
            share.push(other, tmp_path / "other", url)
    share.push(small, root, url)
    there = dataset.open("small", url)
    assert there.hash == small.hash
    assert verify(there)


def test_damage_there_is_seen_and_nothing_is_written_here(
    url: str, root: Path, small: Dataset, tmp_path: Path
) -> None:
    share.push(small, root, url)
    place = remote.Place(url)
    chunk = next(name for name in sorted(names(url)) if "/rewards/c/" in name)
    content = bytearray(place.fs.cat_file(f"{place.path}/{chunk}"))
    content[3] ^= 4
    place.fs.pipe_file(f"{place.path}/{chunk}", bytes(content))
    with pytest.raises(UserError, match="rewards") as error:
        verify(dataset.open("small", url))
    assert error.value.code == 3
    assert url in error.value.message
    with pytest.raises(UserError, match="rewards") as error:
        share.pull("small", url, tmp_path / "new")
    assert error.value.code == 3
    assert list(ids.existing(tmp_path / "new")) == []
    place.fs.rm_file(f"{place.path}/{chunk}")
    with pytest.raises(UserError, match="expected the file rewards") as error:
        share.pull("small", url, tmp_path / "new")


def test_hostile_neighbour_does_not_hide_the_others(url: str, root: Path, small: Dataset) -> None:
    share.push(small, root, url)
    place = remote.Place(url)
    for name, text in (("manifest.json", b"[]"), (MARKER, b"0")):
        place.fs.makedirs(f"{place.path}/dom2/evil-v0/data", exist_ok=True)
        place.fs.pipe_file(f"{place.path}/dom2/evil-v0/data/{name}", text)
    found, skipped = catalog.catalog(url)
    assert [record["id"] for record in found] == [small.id]
    assert "evil-v0" in skipped[0].message


def test_interrupted_download_continues(url: str, root: Path, small: Dataset, tmp_path: Path) -> None:
    share.push(small, root, url)
    place, reads = remote.Place(url), list[str]()
    source = place.source(small.id)
    really = source.read

    def read(name: str) -> bytes:
        if len(reads) == 10:
            raise Unplugged("unplugged")
        reads.append(name)
        return really(name)

    source.read = read  # type: ignore[method-assign]
    with pytest.raises(Unplugged):
        share.receive(source, small.manifest, tmp_path / "new", force=False)
    assert list(ids.existing(tmp_path / "new")) == []
    fetched = [name for name in reads if "/" in name]
    assert fetched
    reads[:] = [""] * -1000
    source.read = lambda name: (reads.append(name), really(name))[1]  # type: ignore[method-assign]
    assert verify(share.receive(source, small.manifest, tmp_path / "new", force=False))
    assert set(fetched).isdisjoint(reads)


@pytest.mark.usefixtures("s3")
def test_killed_uploads(root: Path, small: Dataset, tmp_path: Path) -> None:
    """SIGKILL at several moments: afterwards it is not listed or it verifies, and a rerun finishes it."""
    url = f"s3://bucket/{tmp_path.name}"
    code = (
        "import sys, time, pathlib; from dom2data import dataset, share; from dom2data.store import remote\n"
        "put = remote._put\n"
        "remote._put = lambda *a: (put(*a), print('sent', flush=True), time.sleep(0.02))\n"
        "root = pathlib.Path(sys.argv[1]); share.push(dataset.open('small', root), root, sys.argv[2])"
    )
    for sent in (1, 6, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(root), url], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(sent):
            assert process.stdout.readline() == "sent\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        found, skipped = catalog.catalog(url)
        assert (found, skipped) == ([], [])
    share.push(small, root, url)
    assert verify(dataset.open("small", url))


def test_places_that_cannot_be_reached(small: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    for url, code, words in (
        ("nosuch://x", 2, "expected a URL"),
        ("s3://bucket/x", 1, "expected to reach"),
    ):
        with pytest.raises(UserError, match=words) as error:
            share.push(small, root, url)
        assert error.value.code == code
        assert "\n" not in error.value.message
    s3fs.S3FileSystem.clear_instance_cache()  # which remember that address


def test_without_s3fs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"pip install 'dom2\[s3\]'"):
        remote.Place("s3://bucket/x")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("s3://b/x", "s3://b/x"),
        (Path("s3://b/x"), "s3://b/x"),
        (Path("file:///tmp/x"), "file:///tmp/x"),
        ("file:///tmp/x", "file:///tmp/x"),
        (Path("memory://x"), "memory://x"),
        ("/tmp/x", None),
        ("C:/data", None),
        ("relative", None),
        ("dom2/tag:make", None),
    ],
)
def test_what_is_a_url(given: str | Path, found: str | None) -> None:
    assert ids.url(given) == found


def test_listing_reads_manifests_alone(
    url: str, root: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    share.push(small, root, url)
    read, really = list[str](), remote.Files.read
    monkeypatch.setattr(
        remote.Files, "read", lambda source, name: (read.append(name), really(source, name))[1]
    )
    assert len(catalog.catalog(url)[0]) == 1
    assert sorted(read) == [MARKER, "manifest.json"]
