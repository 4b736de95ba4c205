"""Minibatches from mapped files: the same as from memory, whatever happened to the files before."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from small_datasets import generators, in_memory, stored
from test_fit import same_weights
from tiny import new_run

from dom2 import fit
from dom2data import cache, dataset, memory, read_ahead, sampler, share, tables
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.read_ahead import ReadAhead
from dom2data.sampler import Sampler, Thresholds
from dom2data.spec import Batch
from dom2data.store.layout import ArrayLayout, layout
from dom2data.subsample import subsample
from dom2data.windows import Windows, WindowSampler

RAGGED = [4, 2, 4, 1, 3] * 4
NONE = Thresholds("none")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with one dataset of several chunks, whose episodes cross them."""
    monkeypatch.setattr("dom2data.store.layout.block_episodes", lambda horizon: 3)
    stored(tmp_path, RAGGED)
    return tmp_path


def equal(one: Batch | Windows, other: Batch | Windows) -> bool:
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("thresholds", [Thresholds(), NONE, Thresholds("absolute", (0.0, 0.5))])
def test_mapped_draws_are_those_from_memory(root: Path, thresholds: Thresholds, joint: bool) -> None:
    small = dataset.open("small", root)
    assert small.layout("actions").n_chunks > 3
    source = cache.mapped(small, cache.folder(root))
    here = Sampler(in_memory(RAGGED), thresholds, 64, generators(0, 1), joint=joint)
    there = Sampler(small, thresholds, 64, generators(0, 1), joint=joint, source=source)
    for _ in range(4):
        assert equal(here.sample(), there.sample())
    assert not {"observations", "actions", "rewards"} & set(small._arrays)  # never whole in memory


@pytest.mark.parametrize("joint", [False, True])
def test_read_ahead_in_the_order_of_the_file(
    root: Path, joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same minibatches, and the same states between them."""
    monkeypatch.setattr(read_ahead, "WINDOW", 256)  # several rows
    small = dataset.open("small", root)
    monkeypatch.setattr(memory, "available", lambda anonymous=True: 1000)
    source = cache.mapped(small, cache.folder(root))
    assert source.files is not None

    def ahead(*seeds: int) -> ReadAhead:
        sampler = Sampler(small, Thresholds(), 64, generators(*seeds), joint=joint, source=source)
        return ReadAhead(sampler, source, source.files, 3)

    plain = Sampler(in_memory(RAGGED), Thresholds(), 64, generators(0, 1), joint=joint)
    there, states, drawn = ahead(0, 1), [], []
    for _ in range(8):
        states.append(plain.state())
        drawn.append(plain.sample())
        assert all(map(torch.equal, there.state(), states[-1]))
        assert equal(there.sample(), drawn[-1])
    for begin in (0, 4, 7):
        again = ahead(5, 6)
        again.sample()
        again.resume(states[begin], begin)
        assert all(equal(again.sample(), batch) for batch in drawn[begin:])


def test_files_fit_together_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataset.open("small", root)
    weighed = sampler.weights(small, Thresholds())
    cache.mapped(small, cache.folder(root)).weigh(weighed, 4)
    sizes = {path.name: path.stat().st_size for path in cache.folder(root).rglob("*") if path.is_file()}
    obs, moves, index = (sizes[name] for name in ("observations", "moves", "steps"))
    for room, fits in ((obs + moves + 2 * index + 1, True), (obs + moves + 2 * index, False)):
        monkeypatch.setattr(memory, "available", lambda anonymous=True: room)  # noqa: B023
        assert (cache.mapped(small, cache.folder(root), weights=weighed).files is None) == fits


def test_mapped_windows_are_those_from_memory(root: Path) -> None:
    small = dataset.open("small", root)
    how = (Thresholds(), 64, generators(0, 1), "cpu", 3, 0.9)
    here = WindowSampler(in_memory(RAGGED), *how)
    state = here.state()
    drawn = [here.sample() for _ in range(3)]
    there = WindowSampler(small, *how, cache.mapped(small, cache.folder(root)))
    there.resume(state, 0)
    assert all(equal(windows, there.sample()) for windows in drawn)


def test_made_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small, weights = in_memory(RAGGED), np.arange(len(RAGGED)) % 3 + 1
    whole = np.concatenate(list(tables.virtual_rows(small, weights)), axis=1)
    monkeypatch.setattr(tables, "PIECE", 7)
    parts = list(tables.virtual_rows(small, weights))
    assert len(parts) > 5
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert list(tables.pieces(np.array([3, 3, 9, 1, 1])))[-1][1] == 5


def test_made_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, seen = dataset.open("small", root), []
    cache.mapped(small, cache.folder(root), lambda what, done, of: seen.append((done, of)))
    chunks = small.layout("observations").n_chunks + small.layout("actions").n_chunks
    assert seen == [(n, chunks) for n in range(1, chunks + 1)]
    monkeypatch.setattr(small, "chunk", None)  # cannot be read any more
    Sampler(small, NONE, 4, generators(0), source=cache.mapped(small, cache.folder(root))).sample()
    other = stored(root, [2, 2, 3], "other")
    cache.mapped(other, cache.folder(root))
    assert len(list(cache.folder(root).iterdir())) == 2  # another hash, another cache
    shutil.rmtree(cache.folder(root))
    with pytest.raises(TypeError):
        cache.mapped(small, cache.folder(root))


def test_two_at_once(root: Path) -> None:
    small = dataset.open("small", root)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.mapped(small, cache.folder(root)), range(4)))
    assert all(torch.equal(each.moves, found[0].moves) for each in found)


@pytest.fixture
def made(root: Path) -> Path:
    """The folder of tables of a cache that is there."""
    cache.mapped(dataset.open("small", root), cache.folder(root))
    return next(cache.folder(root).glob("*/tables"))


@pytest.mark.parametrize("harm", ["short", "note", "no note"])
def test_what_is_not_whole_is_made_again(root: Path, made: Path, harm: str) -> None:
    whole = (made / "moves").read_bytes()
    if harm == "short":
        (made / "moves").write_bytes(whole[:-4])
    elif harm == "note":
        (made / cache.NOTE).write_text(
            (made / cache.NOTE).read_text().replace('"version": 1', '"version": 0')
        )
    else:
        (made / cache.NOTE).unlink()
    cache.mapped(dataset.open("small", root), cache.folder(root))
    assert (made / "moves").read_bytes() == whole


_KILLED = """
import os, signal, sys
from pathlib import Path
from dom2data import cache, dataset
def kill(what, done, chunks):
    if done == chunks // 2:
        os.kill(os.getpid(), signal.SIGKILL)
cache.mapped(dataset.open("small", sys.argv[1]), cache.folder(sys.argv[1]), kill)
"""


def test_killed_half_way(root: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _KILLED, str(root)]).returncode == -9
    assert not list(cache.folder(root).glob("*/tables"))
    (left,) = cache.folder(root).glob("*/.tables.partial")
    small = dataset.open("small", root)
    source = cache.mapped(small, cache.folder(root))
    assert not left.exists()
    assert equal(
        Sampler(small, NONE, 64, generators(0), source=source).sample(),
        Sampler(in_memory(RAGGED), NONE, 64, generators(0)).sample(),
    )


@pytest.mark.parametrize("to_url", [False, True])
def test_a_damaged_chunk(root: Path, to_url: bool) -> None:
    small = dataset.open("small", root)
    url, name = f"memory://{root.name}-damaged", f"{small.id}/data/rewards/c/1/0"
    chunk = root / name
    content = bytearray(chunk.read_bytes())
    content[3] ^= 4
    if to_url:
        share.push(small, root, url)
        fsspec.filesystem("memory").pipe_file(
            f"/{root.name}-damaged/{small.id}/data/rewards/c/1/0", bytes(content)
        )
        small = dataset.open("small", url)
    else:
        chunk.write_bytes(bytes(content))
    with pytest.raises(UserError, match="'rewards', chunk 1") as error:
        cache.mapped(small, root / "caches")
    assert error.value.code == 3
    assert (url if to_url else str(root)) in error.value.message
    assert not list((root / "caches").glob("*/*tables*/"))


def test_an_intact_chunk_of_other_data(root: Path) -> None:
    """Its checksum is right, so only the hash tells."""
    other = stored(root, RAGGED, "other", seed=5)
    shutil.copyfile(*(root / i / "data/actions/c/2/0/0" for i in (other.id, "dom2/small-v0")))
    with pytest.raises(UserError, match="'actions', chunk 2: expected the hash") as error:
        cache.mapped(dataset.open("small", root), cache.folder(root))
    assert error.value.code == 3


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_from_a_url(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{root.name}" if kind == "memory" else f"file://{root}/there"
    share.push(dataset.open("small", root), root, url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "xdg"))
    monkeypatch.setenv("TMPDIR", str(root))
    assert cache.folder(url) == root / "xdg" / "dom2data"
    small = dataset.open("small", url)
    source = cache.mapped(small, cache.folder(url))
    assert equal(
        Sampler(small, Thresholds(), 64, generators(3), source=source).sample(),
        Sampler(in_memory(RAGGED), Thresholds(), 64, generators(3)).sample(),
    )
    monkeypatch.setenv("DOM2DATA_CACHE", str(root / "chosen"))
    assert cache.folder(url) == cache.folder(root) == root / "chosen"


def test_no_room_on_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(UserError, match=r"GB of free disk .* DOM2DATA_CACHE") as error:
        cache.mapped(dataset.open("small", root), cache.folder(root))
    assert error.value.code == 1
    (root / "file").write_text("")
    with pytest.raises(UserError, match="expected to write the cache"):
        cache.mapped(dataset.open("small", root), root / "file")


@pytest.mark.parametrize("fits", [True, False])
def test_training_is_the_same(tmp_path: Path, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it goes on in another way than it began."""
    here, there = new_run(tmp_path / "memory"), new_run(tmp_path / "mapped", data="mapped")
    mixed = new_run(tmp_path / "mixed", updates=2)
    fit.fit(here)
    fit.fit(mixed)
    mixed.amend(updates=4, data="mapped")
    if not fits:
        monkeypatch.setattr(memory, "available", lambda anonymous=True: 1000)
    for each in (there, mixed):
        fit.fit(each)
        assert same_weights(here, each)


def test_arrays_that_do_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = new_run(tmp_path / "run")
    monkeypatch.setattr(memory, "available", lambda anonymous=True: 1000)
    with pytest.raises(UserError, match="--data mapped") as error:
        fit.fit(begun)
    assert error.value.code == 1


def test_datasets_of_many_terabytes_are_described() -> None:
    from dom2data.store import schema

    spec = in_memory([4]).spec
    entry = layout(spec, 10**9, 25 * 10**9)["observations"]
    assert entry == ArrayLayout.from_json(entry.to_json())
    assert schema._ARRAY["shape"][0](list(entry.shape))
    assert schema._MANIFEST["size_bytes"][0](entry.nbytes)


_LIMITED = """
import os, resource, sys
import torch, zarr
from dom2data import cache, dataset, stream, tables
from dom2data.sampler import Sampler, Thresholds
from dom2data.store import zarr as _
torch.set_num_threads(1)

def draw(data, limited):
    found = dataset.open("large", sys.argv[1])
    size = sum(found.layout(name).nbytes for name in ("observations", "actions", "rewards"))
    used = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
    if limited:
        resource.setrlimit(resource.RLIMIT_DATA, (used + size // 3, -1))
    try:
        source = {
            "memory": lambda: tables.in_memory(found, "cpu"),
            "mapped": lambda: cache.mapped(found, cache.folder(sys.argv[1])),
            "stream": lambda: stream.Blocks(found, 4),
        }[data]()
        sampler = Sampler(found, Thresholds(), 256, [torch.Generator().manual_seed(0)], source=source)
        print(sum(float(sampler.sample().obs.sum()) for _ in range(50)), flush=True)
    except MemoryError:
        print("MemoryError", flush=True)

for asked in sys.argv[2:]:
    if (child := os.fork()) == 0:  # a process of its own, without the time that the imports take
        draw(asked.removesuffix("-whole"), not asked.endswith("-whole"))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{asked} failed")
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="RLIMIT_DATA counts only there what is mapped anonymously"
)
def test_in_a_third_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dom2data.store.layout.block_episodes", lambda horizon: 2_500)
    large(tmp_path)
    asked = ("memory", "mapped", "stream", "memory-whole", "stream-whole")  # the last two without the limit
    call = [sys.executable, "-c", _LIMITED, str(tmp_path), *asked]
    run = subprocess.run(call, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    printed = dict(zip(asked, run.stdout.split(), strict=True))
    assert [data for data in asked if printed[data] == "MemoryError"] == ["memory"]
    assert printed["mapped"] == printed["memory-whole"]
    assert printed["stream"] == printed["stream-whole"]


def large(root: Path) -> Dataset:
    """90 MB in 80 blocks."""
    spec = in_memory([4]).spec
    rng, episodes = np.random.default_rng(0), 16 * 12_500
    made = dataset.from_arrays(
        spec,
        rng.standard_normal((5 * episodes, 3, 5), np.float32),
        rng.uniform(-1, 1, (4 * episodes, 3, 2)).astype(np.float32),
        rng.standard_normal((4 * episodes, 3), np.float32),
        np.arange(episodes + 1) * 4,
        env="tag",
        quality="medium",
        dataset_id="memory/large-v0",
    )
    return subsample(made, 1.0, out="large", root=root)
