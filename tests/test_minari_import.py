"""What Minari holds becomes a dataset here, ours with the same content hash; what is wrong is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from small_datasets import stored, uneven

from dom2data.convert import minari as ours
from dom2data.convert.ingest import ingest
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.mix import mix
from dom2data.subsample import subsample
from dom2data.verify import verify

RAGGED = [4, 2, 4, 1, 3, 4]


def test_import_of_derived_datasets_gives_the_same_content_hash(root: Path) -> None:
    one, other = stored(root, RAGGED), stored(root, RAGGED, name="other", seed=1)
    mixture = mix([one, other], [0.5, 0.5], out="mixture", root=root)
    chain = subsample(subsample(mixture, 0.6, out="part", root=root), 0.5, out="part-of-it", root=root)
    for number, dataset in enumerate((mixture, chain)):
        assert "ancestor_episode" in dataset.manifest["arrays"]
        found = ingest(ours.read(ours.copy(dataset, root)), f"back-{number}", root)
        assert found.hash == dataset.hash
        verify(found)


@pytest.mark.parametrize("reward", ["shared", "individual"])
def test_import_of_ours_gives_the_same_content_hash(root: Path, reward: str) -> None:
    for dataset in (stored(root, RAGGED, reward=reward), uneven(root)):
        found = ingest(ours.read(ours.copy(dataset, root)), "back", root)
        assert found.hash == dataset.hash
        assert (found.env, found.quality) == (dataset.env, dataset.quality)
        assert found.manifest["parents"] == dataset.manifest["parents"]
        verify(found)
        shutil.rmtree(root / "dom2" / "back-v0")


def test_what_was_changed_is_noticed(root: Path) -> None:
    path = ours.copy(stored(root, RAGGED), root)
    with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
        file["episode_2/rewards"][0] += 1.0
        file["episode_2/infos/rewards"][1] += 1.0
    with pytest.raises(UserError, match="changed since; --option altered=accept") as error:
        ours.read(path)
    assert error.value.code == 3
    found = ours.read(path, altered="accept")
    assert "changed since" in found.notes[0]
    verify(ingest(found, "accepted", root))


def buffers(space: str, n: int = 2, rewards: str = "team") -> list[EpisodeBuffer]:
    """Episodes of 3 and 5 steps in Minari's own words."""
    rng = np.random.default_rng(0)

    def box(rows: int, size: int) -> Any:
        values = rng.uniform(-1, 1, (rows, n, size)).astype(np.float32)
        return {f"p{i}": values[:, i] for i in range(n)} if space == "dict" else values.squeeze()

    episodes = []
    for steps in (3, 5):
        each = rng.normal(size=(steps + 1, n)).astype(np.float32)
        infos = {"rewards": each} if rewards == "each" else {}
        ends = np.arange(steps) == steps - 1
        team = each[1:].mean(axis=1)
        episodes.append(
            EpisodeBuffer(
                observations=box(steps + 1, 4),
                actions=box(steps, 2),
                rewards=team,
                terminations=ends,
                truncations=~ends & False,
                infos=infos,
            )
        )
    return episodes


def spaces(space: str, n: int = 2) -> dict[str, gymnasium.Space]:
    def box(low: float, size: int) -> gymnasium.Space:
        if space == "dict":
            return gymnasium.spaces.Dict(
                {f"p{i}": gymnasium.spaces.Box(low, -low, (size,)) for i in range(n)}
            )
        return gymnasium.spaces.Box(low, -low, (n, size) if n > 1 else (size,))

    return {"observation_space": box(-np.inf, 4), "action_space": box(-1.0, 2)}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize(
    ("space", "n", "rewards"),
    [("dict", 2, "each"), ("stacked", 2, "each"), ("dict", 2, "team"), ("box", 1, "team")],
)
def test_import_of_what_minari_wrote(root: Path, space: str, n: int, rewards: str, data_format: str) -> None:
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    made = buffers(space, n, rewards)
    theirs = minari.create_dataset_from_buffers(
        "other/thing-v0", made, data_format=data_format, **spaces(space, n)
    )
    found = ingest(ours.read(Path("other/thing-v0")), "thing", root)
    verify(found)
    assert found.lengths.tolist() == [3, 5]
    assert found.spec.reward == ("individual" if rewards == "each" else "shared")
    assert (found.spec.act_low, found.spec.act_high, found.spec.horizon) == (-1.0, 1.0, 5)
    for episode, raw in zip(theirs, found.episodes(), strict=True):
        values = episode.observations
        joint = np.stack([values["p0"], values["p1"]], axis=1) if space == "dict" else values
        np.testing.assert_array_equal(raw.observations, np.reshape(joint, raw.observations.shape))
        each = episode.infos["rewards"][1:] if rewards == "each" else episode.rewards[:, None]
        np.testing.assert_array_equal(raw.rewards, np.broadcast_to(each, raw.rewards.shape))
    assert found.array("terminated").all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_rounded_left_out_and_assumed_is_said(root: Path) -> None:
    made = [
        dataclasses.replace(
            episode,
            rewards=np.full(len(episode.rewards), np.pi),
            infos={"state": np.zeros((len(episode.rewards) + 1, 2))},
        )
        for episode in buffers("box", 1)
    ]
    minari.create_dataset_from_buffers("other/thing-v0", made, **spaces("box", 1))
    found = ours.read(Path("other/thing-v0"))
    assert found.notes == (
        "environment other/thing-v0: shared rewards, horizon 5",
        "rewards rounded from float64 to float32",
        "not taken: infos/state",
    )


def hdf5(path: Path) -> h5py.File:
    return h5py.File(path / "data" / "main_data.hdf5", "r+")


def _replace(path: Path, name: str, values: Any, **how: Any) -> None:
    with hdf5(path) as file:
        del file[name]
        file.create_dataset(name, data=values, **how)


def _link(path: Path, target: Any) -> None:
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        if target is None:
            file.create_group("episode_0/rewards")
        else:
            file["episode_0/rewards"] = target


def _gigantic(path: Path) -> None:
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        file["episode_0"].create_dataset("rewards", shape=(10**13,), chunks=(1000,), dtype="f4")


def _virtual(path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(4,))
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        file["episode_0"].create_virtual_dataset("rewards", layout)


def _external(path: Path) -> None:
    with hdf5(path) as file:
        del file["episode_0/rewards"]
        where = [("/etc/hostname", 0, 16)]
        file["episode_0"].create_dataset("rewards", (4,), "f4", external=where)


def _metadata(path: Path, **changes: Any) -> None:
    file = path / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _own(path: Path, **changes: Any) -> None:
    own = json.loads((path / "data" / "metadata.json").read_text())["dom2data"]
    _metadata(path, dom2data=(own or {"spec": 1}) | changes)


def _overflow(path: Path) -> None:
    """A number that JSON may hold and no float can."""
    _own(path, recipe={"x": "HERE"})
    file = path / "data" / "metadata.json"
    file.write_text(file.read_text().replace('"HERE"', "1e999"))


def _space(kind: str) -> str:
    box = {"type": kind, "dtype": "float32", "shape": [10**14], "low": [0], "high": [1]}
    return json.dumps(box)


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "objects": lambda p: _replace(p, "episode_0/rewards", ["a", "b"], dtype=h5py.string_dtype()),
    "soft link": lambda p: _link(p, h5py.SoftLink("/episode_1/rewards")),
    "external link": lambda p: _link(p, h5py.ExternalLink("/etc/passwd", "/x")),
    "cycle": lambda p: _link(p, h5py.SoftLink("/episode_0")),
    "virtual": _virtual,
    "external storage": _external,
    "gigantic": _gigantic,
    "nan": lambda p: _replace(p, "episode_0/observations/a", np.full((5, 5), np.nan, np.float32)),
    "ragged": lambda p: _replace(p, "episode_0/observations/a", np.zeros((3, 5), np.float32)),
    "integers": lambda p: _replace(p, "episode_0/actions/a", np.zeros((4, 2), np.int64)),
    "out of bounds": lambda p: _replace(p, "episode_0/actions/a", np.full((4, 2), 7.0, np.float32)),
    "ended before": lambda p: _replace(p, "episode_0/truncations", np.ones(4, bool)),
    "no rewards": lambda p: _replace(p, "episode_0/rewards", np.zeros(0, np.float32)),
    "scalar": lambda p: _replace(p, "episode_0/rewards", np.float32(1.0)),
    "a group": lambda p: _link(p, None),
    "not HDF5": lambda p: (p / "data" / "main_data.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
    "no file": lambda p: (p / "data" / "main_data.hdf5").unlink(),
    "not JSON": lambda p: (p / "data" / "metadata.json").write_text("{"),
    "too many episodes": lambda p: _metadata(p, total_episodes=10**18),
    "no spaces": lambda p: _metadata(p, observation_space="{}"),
    "gigantic space": lambda p: _metadata(p, observation_space=_space("Box"), action_space=_space("Box")),
    "discrete": lambda p: _metadata(p, observation_space=_space("Discrete")),
    "another format": lambda p: _metadata(p, data_format="pickle"),
    "no note at all": lambda p: _metadata(p, dom2data=[1]),
    "a spec of nonsense": lambda p: _own(p, spec={"horizon": -1}),
    "a hash of nonsense": lambda p: _own(p, hash=5),
    "a path as a name": lambda p: _own(p, further=["../../x"]),
    "a parent of nonsense": lambda p: _own(p, parents=[1]),
    "more than a number": lambda p: _overflow(p),
}


@pytest.mark.parametrize("claim", ["ours", "theirs"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line_and_nothing_is_written(root: Path, name: str, claim: str) -> None:
    path = ours.copy(stored(root, RAGGED), root)
    if claim == "theirs":
        _metadata(path, dom2data=None)
    HOSTILE[name](path)
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError) as error:
        ingest(ours.read(path), "hostile", root)
    assert error.value.code == 3
    assert "\n" not in error.value.message
    assert len(error.value.message) < 400
    assert sorted(root.rglob("*")) == before


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Dataset]:
    """A dataset, and where its HDF5 lies with which bytes."""
    root = tmp_path_factory.mktemp("intact")
    dataset = stored(root, RAGGED)
    path = ours.copy(dataset, root)
    return path, (path / "data" / "main_data.hdf5").read_bytes(), dataset


@given(where=st.floats(0, 1, exclude_max=True), new=st.binary(max_size=9), cut=st.booleans())
def test_damaged_files_are_refused_or_the_same(
    intact: tuple[Path, bytes, Dataset], where: float, new: bytes, cut: bool
) -> None:
    path, whole, dataset = intact
    start = int(where * len(whole))
    rest = b"" if cut else whole[start + len(new) :]
    (path / "data" / "main_data.hdf5").write_bytes(whole[:start] + new + rest)
    code, found = 0, None
    try:
        found = ours.read(path)
    except UserError as error:
        code = error.code
    assert code == (3 if found is None else 0)
    for name, array in found.arrays.items() if found else ():
        np.testing.assert_array_equal(array, dataset.array(name))
