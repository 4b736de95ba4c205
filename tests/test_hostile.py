"""Hostile files: one line, exit code 3, no code is run, nothing is written, no memory is asked for."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files
import hostile_files
import numpy as np
import pytest
import small_datasets
from click.testing import Result
from commands import dom2data
from edited import ANYTHING, places, replaced
from foreign_files import play
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dom2_policies import zoo
from dom2data import cache, convert, dataset
from dom2data.convert.ingest import checked
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, USAGE, UserError
from dom2data.store import manifest as manifests

Make = Callable[[Path], Path]
CASES: dict[str, tuple[str, Make]] = {
    **{
        f"omar {n}": ("omar", lambda p, c=c: hostile_files.omar(p, "acs", c))
        for n, c in hostile_files.NPY.items()
    },
    **{f"madiff {n}": ("madiff", lambda p, c=c: _madiff(p, c)) for n, c in hostile_files.NPY.items()},
    **{
        f"hdf5 {n}": ("omiga", lambda p, c=c: hostile_files.hdf5(p, c)) for n, c in hostile_files.HDF5.items()
    },
    **{f"npz {n}": ("npz", lambda p, c=c: hostile_files.npz(p, c)) for n, c in hostile_files.NPZ.items()},
    **{
        f"note {n}": ("npz", lambda p, c=c: hostile_files.npz(p, hostile_files.note(**c)))
        for n, c in hostile_files.NOTES.items()
    },
    **{f"npz entry {n}": ("npz", hostile_files.names(n)) for n in hostile_files.ENTRIES},
    "npz bomb": ("npz", hostile_files.bomb),
    "npz false size": ("npz", hostile_files.zipped),
    **{
        f"safetensors {n}": ("safetensors", lambda p, c=c: hostile_files.safetensors(p, c))
        for n, c in hostile_files.SAFETENSORS.items()
    },
    **{
        f"torchrl {n}": ("torchrl", lambda p, c=c: hostile_files.torchrl(p, **c))
        for n, c in hostile_files.TORCHRL.items()
    },
    **{
        f"vault {n}": ("vault", lambda p, c=c: hostile_files.vault(p, **c))
        for n, c in hostile_files.VAULTS.items()
    },
}
MEMORY = 100e6  # the valid files need a hundredth of it; what the hostile ones claim, a million times it


def _madiff(path: Path, content: bytes) -> Path:
    foreign_files.madiff(path, play([25]))
    (path / "path_lengths.npy").write_bytes(content)
    return path


def refused_in_one_line(result: Result) -> None:
    assert result.exit_code == CHECK_FAILED, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert "expected" in result.stderr
    assert len(result.stderr) < 1000


@pytest.mark.parametrize("name", CASES)
def test_import(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    format_, make = CASES[name]
    (tmp_path / "in").mkdir()
    path, root = make(tmp_path / "in" / "file"), tmp_path / "root"
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    result = dom2data("import", path, "--from", format_, "--root", root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    refused_in_one_line(result)
    assert sorted(tmp_path.rglob("*")) == before
    assert peak < MEMORY


def test_the_valid_files_are_imported(tmp_path: Path) -> None:
    """What the cases above start from: it is their fault alone that is refused."""
    hostile_files.npz(tmp_path / "a.npz", {})
    foreign_files.omar(tmp_path / "omar", play([25]))
    foreign_files.omiga(tmp_path / "a.hdf5", play([5, 5]))
    foreign_files.torchrl(tmp_path / "td", play([4, 3]))
    hostile_files.vault(tmp_path / "vault")
    for format_, name in (
        ("npz", "a.npz"),
        ("omar", "omar"),
        ("omiga", "a.hdf5"),
        ("torchrl", "td"),
        ("vault", "vault"),
    ):
        result = dom2data(
            "import", tmp_path / name, "--from", format_, "--root", tmp_path / "root", "--out", format_
        )
        assert result.exit_code == 0, result.output


VALID: dict[str, Callable[[Path], Path]] = {
    "npz": lambda path: convert.module("npz").write(small_datasets.in_memory([4, 3]), path),
    "safetensors": lambda path: convert.module("safetensors").write(small_datasets.in_memory([4, 3]), path),
    "omar": lambda path: foreign_files.omar(path, play([25])),
    "madiff": lambda path: foreign_files.madiff(path, play([4, 3])),
    "omiga": lambda path: foreign_files.omiga(path, play([5, 5])),
    "d4rl": lambda path: foreign_files.d4rl(path, play([5, 5], agents=1)),
    "torchrl": lambda path: foreign_files.torchrl(path, play([4, 3])),
    "vault": lambda path: foreign_files.vault(path, [play([4, 4])]),
}


def read_or_refused(format_: str, path: Path) -> None:
    """A file either holds whole episodes of finite numbers, or is refused in one line with code 3."""
    outcome: Any = None
    try:
        found = convert.module(format_).read(path)
        arrays = checked(found.spec, found.arrays)
    except UserError as error:
        outcome = error
    if outcome is not None:
        assert outcome.code == CHECK_FAILED
        assert "\n" not in outcome.message
        return
    flags = {name: arrays[name] for name in ("terminated", "truncated", "source")}
    values = [arrays[name] for name in ("observations", "actions", "rewards")]
    assert all(np.isfinite(array).all() for array in values)
    dataset.from_arrays(found.spec, *values, arrays["offsets"], **flags)  # which checks the shapes once more


@pytest.mark.parametrize("format_", VALID)
def test_flipped_bytes(format_: str, tmp_path: Path) -> None:
    """Any byte of any file, with a fixed seed: headers are where it hurts, so half of them are early ones."""
    VALID[format_](tmp_path / "file")
    files = [tmp_path / "file"] if (tmp_path / "file").is_file() else sorted((tmp_path / "file").rglob("*"))
    files = [file for file in files if file.is_file()]
    rng = np.random.default_rng(0)
    for turn in range(60):
        file = files[rng.integers(len(files))]
        intact = file.read_bytes()
        spoilt = bytearray(intact)
        for _ in range(rng.integers(1, 4)):
            spoilt[rng.integers(len(intact) if turn % 2 else min(300, len(intact)))] = rng.integers(256)
        file.write_bytes(bytes(spoilt[: rng.integers(len(spoilt))]) if turn % 10 == 9 else bytes(spoilt))
        read_or_refused(format_, tmp_path / "file")
        file.write_bytes(intact)


CORPUS = sorted((Path(__file__).parent / "data" / "hostile").iterdir())


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_what_fuzzing_found(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files kept because each was refused for a reason of its own, or once was not."""
    monkeypatch.chdir(tmp_path)
    format_, path = file.name.partition("-")[0], file
    if format_ == "npy":
        format_, path = "omar", hostile_files.omar(tmp_path / "in", "acs", file.read_bytes())
    refused_in_one_line(dom2data("import", path, "--from", format_, "--root", tmp_path / "root"))
    assert not (tmp_path / "root").exists()
    assert not Path("it-ran").exists()


SHAPES = st.lists(st.integers(0, 8), max_size=4).map(tuple)
DTYPES = st.sampled_from(["f4", "f8", "f2", "i8", "i4", "u1", "?", "c8", "S3", "M8[s]"])
VALUES = st.sampled_from([0.0, 1.0, -1.0, 2.0, np.nan, np.inf, -np.inf, 1e30, -7.0])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(hostile_files.arrays())),
    shape=st.none() | SHAPES,
    dtype=st.none() | DTYPES,
    value=st.none() | VALUES,
)
@example(name="offsets", shape=(3,), dtype="i8", value=None)
def test_any_array(name: str, shape: Any, dtype: Any, value: Any, tmp_path: Path) -> None:
    """One array of another shape, of another kind, or with another value somewhere."""
    array = hostile_files.arrays()[name]
    if shape is not None:
        array = np.resize(array, shape)
    if dtype is not None:
        array = array.astype("i8" if dtype == "M8[s]" else dtype).astype(dtype)
    if value is not None and array.size and array.dtype.kind in "biuf":
        with np.errstate(invalid="ignore", over="ignore"):
            array.reshape(-1)[array.size // 2] = np.float64(value).astype(array.dtype)
    hostile_files.npz(tmp_path / "file", {name: array})
    read_or_refused("npz", tmp_path / "file")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    small_datasets.stored(root, [4, 3], name="ours")
    return root


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_our_manifest(data: st.DataObject, own: Path) -> None:
    """``list``, ``show`` and ``verify`` of a manifest that its completion marker vouches for."""
    folder = own / "dom2" / "ours-v0" / "data"
    intact, marker = (folder / manifests.FILE).read_bytes(), (folder / manifests.MARKER).read_bytes()
    document = json.loads(intact)
    where = data.draw(st.sampled_from(places(document)))
    text = json.dumps(replaced(document, where, data.draw(ANYTHING))).encode()
    (folder / manifests.FILE).write_bytes(text)
    (folder / manifests.MARKER).write_text(manifests.digest(text))
    try:
        for words in (["list"], ["show", "ours"], ["verify", "ours"]):
            result = dom2data(*words, "--root", own)
            assert result.exit_code in (0, CHECK_FAILED), (words, where, result.output)
            assert "this is a bug" not in result.output
    finally:
        (folder / manifests.FILE).write_bytes(intact)
        (folder / manifests.MARKER).write_bytes(marker)


ZOO = json.loads((zoo.FOLDER / "zoo.json").read_text())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sampled_from([place for place in places(ZOO) if place[0] == "tag"]), value=ANYTHING)
@example(where=("tag", "policies"), value={})
@example(where=("tag", "policies", "medium"), value=...)
@example(where=("tag", "policies", "medium", "env_steps"), value="5")
@example(where=("tag",), value=...)
def test_any_value_in_a_zoo(where: Any, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A plan of each quality from a folder of policies whose ``zoo.json`` somebody has edited."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "zoo.json").write_text(json.dumps(replaced(ZOO, where, value)))
    for file in zoo.FOLDER.glob("tag-*.safetensors"):
        (folder / file.name).symlink_to(file)
    for quality in ("expert", "medium-replay"):
        words = ("generate", "--env", "tag", "--quality", quality, "--checkpoints", folder, "--dry-run")
        result = dom2data(*words, "--root", folder)
        assert "this is a bug" not in result.output, (where, result.output)
        assert result.exit_code in (0, USAGE, CHECK_FAILED), (where, result.output)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"zarr_format": 2},
        {"shape": [10**15, 3, 2]},
        {"data_type": "object"},
        {"codecs": [{"name": "numcodecs.pickle"}]},
        {"codecs": []},
        {"chunk_grid": None},
    ],
    ids=str,
)
def test_our_arrays_metadata(spoilt: dict[str, Any], tmp_path: Path) -> None:
    small_datasets.stored(tmp_path, [4, 3], name="ours")
    file = tmp_path / "dom2" / "ours-v0" / "data" / "actions" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | spoilt))
    refused_in_one_line(dom2data("verify", "ours", "--root", tmp_path))


def test_an_old_array_that_would_be_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr 2 knows a filter that unpickles; we open nothing but Zarr 3."""
    import pickle

    monkeypatch.chdir(tmp_path)
    made = small_datasets.stored(tmp_path, [4, 3], name="ours")
    folder = tmp_path / "dom2" / "ours-v0" / "data" / "actions"
    shape = list(made.array("actions").shape)
    (folder / "zarr.json").unlink()
    old = {
        "zarr_format": 2,
        "shape": shape,
        "chunks": shape,
        "dtype": "<f4",
        "compressor": None,
        "order": "C",
    }
    old |= {"fill_value": 0, "filters": [{"id": "pickle"}], "dimension_separator": "/"}
    (folder / ".zarray").write_text(json.dumps(old))
    (folder / "0").mkdir()
    (folder / "0" / "0").mkdir()
    (folder / "0" / "0" / "0").write_bytes(pickle.dumps(hostile_files.Payload()))
    refused_in_one_line(dom2data("verify", "ours", "--root", tmp_path))
    assert not Path("it-ran").exists()


def changed(root: Path, hash_: str) -> Dataset:
    """Open our dataset with another content hash in a manifest that its marker vouches for."""
    folder = root / "dom2" / "ours-v0" / "data"
    text = json.dumps(json.loads((folder / manifests.FILE).read_text()) | {"hash": hash_}).encode()
    (folder / manifests.FILE).write_bytes(text)
    (folder / manifests.MARKER).write_text(manifests.digest(text))
    return dataset.open("ours", root)


@pytest.mark.parametrize("path", ["evil", "../../evil", "e" * 63 + "/", "F" * 64, "f" * 64 + "\n"])
def test_a_hash_that_is_a_path(path: str, tmp_path: Path) -> None:
    """A cache would be made there, after what is there was removed."""
    small_datasets.stored(tmp_path, [4, 3], name="ours")
    for hash_ in (path, str(tmp_path / path)):
        with pytest.raises(UserError, match="expected 'hash' in the manifest to be 64 hexadecimal") as caught:
            changed(tmp_path, hash_)
        assert caught.value.code == CHECK_FAILED


def test_a_hash_of_another_dataset(tmp_path: Path) -> None:
    """Its cache is not taken for that of this one."""
    small_datasets.stored(tmp_path, [4, 3], name="ours")
    other = small_datasets.stored(tmp_path, [4, 3], name="other", seed=1)
    cache.mapped(other, tmp_path / "caches")
    with pytest.raises(UserError, match=r"dom2/ours-v0: expected the content hash of its leaves") as caught:
        cache.mapped(changed(tmp_path, other.hash), tmp_path / "caches")
    assert caught.value.code == CHECK_FAILED
    assert [folder.name for folder in (tmp_path / "caches").iterdir()] == [other.hash]


def test_a_manifest_that_claims_more_than_there_is(tmp_path: Path) -> None:
    made = small_datasets.stored(tmp_path, [4, 3], name="ours")
    folder = tmp_path / "dom2" / "ours-v0" / "data"
    document = json.loads((folder / manifests.FILE).read_text())
    steps = 2**31 - 1
    for name in ("observations", "actions", "rewards"):
        entry = document["arrays"][name]
        entry |= {"shape": [steps, *entry["shape"][1:]], "chunk_rows": steps}
        meta = json.loads((folder / name / "zarr.json").read_text())
        meta |= {"shape": entry["shape"]}
        meta["chunk_grid"]["configuration"]["chunk_shape"] = entry["shape"]
        (folder / name / "zarr.json").write_text(json.dumps(meta))
    text = json.dumps(document).encode()
    (folder / manifests.FILE).write_bytes(text)
    (folder / manifests.MARKER).write_text(manifests.digest(text))
    found = dataset.open(made.id, tmp_path)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"expected .* found") as caught:
        found.array("actions")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == CHECK_FAILED
    assert peak < MEMORY
