"""Foreign formats, each read from files that ``foreign_files`` writes in the documented layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign_files
import numpy as np
import pytest
import small_datasets
from foreign_files import Play, play
from numpy.typing import NDArray

from dom2data import convert
from dom2data.convert import described, files
from dom2data.convert.ingest import Imported, ingest
from dom2data.errors import UserError

FORMATS = [name for name in convert.FORMATS if name != "minari"]  # which tests/test_minari.py is about


def read(format_: str, path: Path, **options: Any) -> Imported:
    return convert.module(format_).read(path, **options)


def observations(data: Play, dropped: int = 0) -> NDArray[Any]:
    """[S+Ep, N, O] of the store, the last ``dropped`` steps of every episode left out."""
    found, first = [], 0
    for length in data.lengths:
        stop = first + length - dropped
        found += [data.obs[first:stop], data.next_obs[stop - 1 : stop]]
        first += length
    return np.concatenate(found)


def kept(data: Play, dropped: int = 1) -> NDArray[np.bool_]:
    """[S]: the steps that remain when the last of every episode is dropped."""
    return ~data.ends if dropped else np.ones(len(data.obs), bool)


def said(found: Imported, *words: str) -> bool:
    return any(all(word in note for word in words) for note in found.notes)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [3, 4, 2]], ids=["equal", "ragged"])
@pytest.mark.parametrize("format_", FORMATS)
def test_there_and_back_the_content_is_the_same(format_: str, lengths: list[int], tmp_path: Path) -> None:
    dataset = small_datasets.in_memory(lengths)
    module = convert.module(format_)
    options = {"horizon": 4} if format_ == "omar" else {}
    written = module.write(dataset, tmp_path / "file")
    made = ingest(module.read(written, **options), "back", tmp_path)
    assert made.hash == dataset.hash
    assert made.quality == "medium"
    assert made.manifest["recipe"]["exported"] == {"id": "memory/small-v0", "hash": dataset.hash}


ENDS = {
    "all terminate": ([4, 4], [True, True], [False, False]),
    "one by one": ([1] * 9, [True] * 9, [False] * 9),
    "cut short": ([4, 2], [False, False], [True, True]),
    "both at once": ([4, 2, 3], [True, True, False], [True, False, True]),
}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("format_", FORMATS)
def test_ends_that_a_format_cannot_tell_come_back(format_: str, ends: str, tmp_path: Path) -> None:
    lengths, terminated, truncated = ENDS[ends]
    dataset = small_datasets.in_memory(lengths, terminated=terminated, truncated=truncated)
    found = read(format_, convert.module(format_).write(dataset, tmp_path / "file"))
    assert ingest(found, "back", tmp_path).hash == dataset.hash


@pytest.mark.parametrize("format_", ["omar", "madiff", "omiga"])
def test_ends_that_are_asked_for_hold(format_: str, tmp_path: Path) -> None:
    dataset = small_datasets.in_memory([4, 4], terminated=[True, True], truncated=[False, False])
    written = convert.module(format_).write(dataset, tmp_path / "file")
    assert read(format_, written).arrays["terminated"].all()
    found = read(format_, written, ends="truncated")
    assert found.arrays["truncated"].all()
    assert not found.arrays["terminated"].any()


@pytest.mark.parametrize(
    "ends",
    [1, [2], {"episodes": 2}, {"episodes": 2, "terminated": "zz", "truncated": "00"},
     {"episodes": 2, "terminated": "0000", "truncated": "ffff"},
     {"episodes": 2, "terminated": "00", "truncated": "80"}],
)  # fmt: skip
def test_flags_of_ends_that_are_none_are_refused(ends: Any) -> None:
    with pytest.raises(UserError, match="flags of") as caught:
        described.ends(json.dumps({"ends": ends}), 2)
    assert caught.value.code == 3
    assert described.ends(json.dumps({"ends": {"episodes": 3}}), 2) is None


def test_a_note_of_many_ends_has_room_in_hdf5(tmp_path: Path) -> None:
    files.write_hdf5(tmp_path / "a.hdf5", {"x": np.zeros(3)}, {"dom2": "0" * 300_000})
    with files.hdf5(tmp_path / "a.hdf5") as file:
        assert files.hdf5_note(file, "dom2") == "0" * 300_000


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_there_stays_without_force(format_: str, tmp_path: Path) -> None:
    module, target = convert.module(format_), tmp_path / "file"
    first = module.write(small_datasets.in_memory([4, 4]), target)
    with pytest.raises(UserError, match="--force"):
        module.write(small_datasets.in_memory([4]), target)
    module.write(small_datasets.in_memory([4, 3, 2], seed=1), target, force=True)
    options = {"horizon": 4} if format_ == "omar" else {}
    assert len(read(format_, first, **options).arrays["actions"]) == 9
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("format_", FORMATS)
def test_an_interrupted_writer_leaves_nothing(
    format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = convert.module(format_)

    def stopped(*given: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("dom2data.convert.described.note", stopped)
    with pytest.raises(KeyboardInterrupt):
        module.write(small_datasets.in_memory([4, 4]), tmp_path / "file")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".file.lock"), pytest.raises(UserError, match="only writer") as caught:
        convert.module("npz").write(small_datasets.in_memory([4, 4]), tmp_path / "file")
    assert caught.value.code == 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"expected to write .*; see --out") as caught:
        convert.module("npz").write(small_datasets.in_memory([4, 4]), tmp_path / "file" / "below")
    assert caught.value.code == 1


def test_omar_has_no_ends_but_every_25_steps(tmp_path: Path) -> None:
    data = play([25, 25])
    found = read("omar", foreign_files.omar(tmp_path, data))
    assert found.arrays["offsets"].tolist() == [0, 25, 50]
    np.testing.assert_array_equal(found.arrays["observations"], observations(data))
    np.testing.assert_array_equal(found.arrays["actions"], data.actions)
    np.testing.assert_array_equal(found.arrays["rewards"], data.rewards)
    assert found.arrays["truncated"].all()
    assert found.spec.facts == {"imported": "omar"}
    assert said(found, "no dones are set", "25 steps")


def test_omar_dones_end_episodes(tmp_path: Path) -> None:
    data = play([4, 6, 6])
    found = read("omar", foreign_files.omar(tmp_path, data, dones=data.ends.astype(float)))
    assert found.arrays["offsets"].tolist() == [0, 4, 10, 16]
    assert found.arrays["terminated"].tolist() == [True, False, False]
    assert said(found, "1 taken as terminations")
    every = read("omar", tmp_path, ends="truncated")
    assert every.arrays["terminated"].tolist() == [False] * 3


def test_omar_prey_is_dropped_or_kept(tmp_path: Path) -> None:
    foreign_files.omar(tmp_path, play([25]), prey=True)
    dropped, with_prey = read("omar", tmp_path), read("omar", tmp_path, prey="keep")
    assert dropped.spec.obs_dims == (5, 5, 5)
    assert said(dropped, "agent 3", "prey", "dropped")
    assert with_prey.spec.obs_dims == (5, 5, 5, 4)
    assert (with_prey.arrays["observations"][:, 3, 4] == 0).all()


@pytest.mark.parametrize("format_", FORMATS)
def test_agents_that_observe_differently_much_come_back(format_: str, tmp_path: Path) -> None:
    dataset = small_datasets.uneven(tmp_path / "root")
    found = read(format_, convert.module(format_).write(dataset, tmp_path / "file"))
    assert found.spec == dataset.spec
    np.testing.assert_array_equal(found.arrays["observations"], dataset.array("observations"))


@pytest.mark.parametrize("format_", FORMATS)
def test_observations_that_never_change_come_back(format_: str, tmp_path: Path) -> None:
    dataset = small_datasets.in_memory([4, 3, 2])
    dataset.array("observations")[:] = 1.0
    found = read(format_, convert.module(format_).write(dataset, tmp_path / "file"))
    assert found.arrays["offsets"].tolist() == [0, 4, 7, 9]


def test_omar_wrong_horizon_is_found_out(tmp_path: Path) -> None:
    foreign_files.omar(tmp_path, play([20, 20, 20]))
    with pytest.raises(UserError, match="whole episodes of 25"):
        read("omar", tmp_path)
    with pytest.raises(UserError, match=r"row 19: .* may end elsewhere"):
        read("omar", tmp_path, horizon=30)
    with pytest.raises(UserError, match="longer than 1 steps"):
        read("omar", foreign_files.omar(tmp_path / "one", play([30])), horizon=1)
    assert len(read("omar", tmp_path, horizon=20).arrays["offsets"]) == 4


def test_omar_seed_is_chosen(tmp_path: Path) -> None:
    foreign_files.omar(tmp_path, play([25]))
    (tmp_path / "seed_0_data").rename(tmp_path / "seed_3_data")
    foreign_files.omar(tmp_path, play([25, 25]))
    with pytest.raises(UserError, match="--option seed=K"):
        read("omar", tmp_path)
    assert len(read("omar", tmp_path, seed=3).arrays["actions"]) == 25


def test_madiff_has_no_final_observation(tmp_path: Path) -> None:
    data = play([4, 3])
    foreign_files.madiff(tmp_path / "data", data)
    found = read("madiff", tmp_path / "data", ends="truncated")
    assert found.arrays["offsets"].tolist() == [0, 3, 5]
    np.testing.assert_array_equal(found.arrays["observations"], observations(data, dropped=1))
    np.testing.assert_array_equal(found.arrays["rewards"], data.rewards[kept(data)])
    assert said(found, "last step of 2 episodes dropped")
    whole = read("madiff", tmp_path / "data", ends="truncated", final="repeat")
    assert whole.arrays["offsets"].tolist() == [0, 4, 7]
    np.testing.assert_array_equal(whole.arrays["observations"][4], data.obs[3])
    assert said(whole, "last observation of 2 episodes repeated")


def test_the_last_step_of_a_terminated_episode_stays(tmp_path: Path) -> None:
    foreign_files.madiff(tmp_path / "data", play([4, 3]))
    found = read("madiff", tmp_path / "data")  # shorter than the longest: terminated
    assert found.arrays["offsets"].tolist() == [0, 3, 6]
    assert found.arrays["terminated"].tolist() == [False, True]


def test_omiga_shifts_its_ends(tmp_path: Path) -> None:
    data = play([5, 4, 5])
    found = read("omiga", foreign_files.omiga(tmp_path / "a.hdf5", data))
    assert found.arrays["offsets"].tolist() == [0, 4, 7, 11]
    np.testing.assert_array_equal(found.arrays["observations"], data.obs)  # every row, as a final one, too
    np.testing.assert_array_equal(found.arrays["actions"], data.actions[kept(data)])
    np.testing.assert_array_equal(found.arrays["rewards"], data.rewards[kept(data), :1].repeat(3, axis=1))
    assert found.spec.reward == "shared"
    assert found.arrays["terminated"].tolist() == [False, True, False]
    assert said(found, "final observations alone")


def test_omiga_as_its_own_loader_reads_what_we_write(tmp_path: Path) -> None:
    import h5py

    dataset = small_datasets.in_memory([4, 3])
    path = convert.module("omiga").write(dataset, tmp_path / "a.hdf5")
    with h5py.File(path) as file:
        o, a, r, d = (file[name][()] for name in "oard")
    step = np.flatnonzero(d[:-1, 0] == 0)
    np.testing.assert_array_equal(a[step], dataset.array("actions"))
    np.testing.assert_array_equal(r[step], dataset.array("rewards"))
    following = np.delete(dataset.array("observations"), [0, 5], axis=0)  # but the first of each episode
    np.testing.assert_array_equal(o[step + 1], following)
    assert np.flatnonzero(d[step + 1, 0]).tolist() == [3, 6]


def test_vault_streams_follow_one_another(tmp_path: Path) -> None:
    streams = [play([4, 4]), play([4, 4], seed=1)]
    foreign_files.vault(tmp_path / "tag.vlt" / "good", streams)
    found = read("vault", tmp_path / "tag.vlt")
    assert found.arrays["offsets"].tolist() == [0, 3, 6, 9, 12]
    assert found.spec.obs_dims == (5, 5, 4)
    np.testing.assert_array_equal(found.arrays["observations"][:4, :2], streams[0].obs[:4, :2])
    np.testing.assert_array_equal(found.arrays["observations"][8:12, 2, :4], streams[1].obs[:4, 2, :4])
    assert said(found, "-inf padding", "(5, 5, 4)")
    second = read("vault", tmp_path / "tag.vlt" / "good", batch=1, final="repeat")
    np.testing.assert_array_equal(second.arrays["actions"], streams[1].actions)
    with pytest.raises(UserError, match="batch to be 0 to 1"):
        read("vault", tmp_path / "tag.vlt", batch=2)


@pytest.mark.parametrize(
    ("following", "timeouts", "options"),
    [(True, True, {}), (True, False, {}), (False, True, {"final": "repeat"})],
    ids=["both", "no timeouts", "no next observations"],
)
def test_d4rl_ends(following: bool, timeouts: bool, options: dict[str, Any], tmp_path: Path) -> None:
    data = play([4, 6, 6], agents=1)
    path = foreign_files.d4rl(tmp_path / "a.hdf5", data, following, timeouts, terminal=1)
    found = read("d4rl", path, **options)
    assert found.arrays["offsets"].tolist() == [0, 4, 10, 16]
    assert found.arrays["terminated"].tolist() == [True, False, False]
    np.testing.assert_array_equal(found.arrays["actions"], data.actions)
    if following:
        np.testing.assert_array_equal(found.arrays["observations"], observations(data))


def test_d4rl_without_any_ends_needs_a_horizon(tmp_path: Path) -> None:
    path = foreign_files.d4rl(tmp_path / "a.hdf5", play([4, 4, 4], agents=1), False, False)
    with pytest.raises(UserError, match="horizon=T"):
        read("d4rl", path)
    assert read("d4rl", path, horizon=4).arrays["offsets"].tolist() == [0, 3, 6, 9]
    terminal = foreign_files.d4rl(tmp_path / "b.hdf5", play([3, 4], agents=1), False, False, terminal=1)
    assert read("d4rl", terminal, horizon=4).arrays["offsets"].tolist() == [0, 3, 6]


def test_d4rl_cuts_agents_side_by_side(tmp_path: Path) -> None:
    path = foreign_files.d4rl(tmp_path / "a.hdf5", play([4, 4], agents=1, widths=(6, 4)))
    assert read("d4rl", path, agents=2).spec.obs_dims == (3, 3)
    with pytest.raises(UserError, match="agents=N"):
        read("d4rl", path, agents=5)


def test_torchrl_groups(tmp_path: Path) -> None:
    data = play([4, 3])
    found = read("torchrl", foreign_files.torchrl(tmp_path / "td", data))
    np.testing.assert_array_equal(found.arrays["observations"], observations(data))
    np.testing.assert_array_equal(found.arrays["rewards"], data.rewards)
    assert found.arrays["offsets"].tolist() == [0, 4, 7]
    with pytest.raises(UserError, match=r"meta\.json"):
        read("torchrl", tmp_path / "td", group="predators")


def test_torch_reads_our_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    dataset = small_datasets.in_memory([4, 3])
    tensors = load_file(convert.module("safetensors").write(dataset, tmp_path / "a.safetensors"))
    assert set(tensors) == set(dataset.manifest["arrays"])
    np.testing.assert_array_equal(tensors["actions"].numpy(), dataset.array("actions"))


def test_npz_without_our_note(tmp_path: Path) -> None:
    data = play([4, 3])
    flags = {"terminated": np.array([False, True]), "truncated": np.array([True, False])}
    arrays = {"observations": observations(data), "actions": data.actions, "rewards": data.rewards}
    np.savez(tmp_path / "a.npz", offsets=np.array([0, 4, 7]), more=np.zeros(3), **arrays, **flags)
    found = read("npz", tmp_path / "a.npz")
    assert (found.spec.horizon, found.spec.reward, found.spec.n_agents) == (4, "individual", 3)
    assert said(found, "not taken: more")
    assert ingest(found, "plain", tmp_path).n_episodes == 2


def test_actions_out_of_bounds_are_refused_or_clipped(tmp_path: Path) -> None:
    data = play([25])
    data.actions[3, 0, 0] = 5.0  # the published environment scales the caller's array in place
    foreign_files.omar(tmp_path, data)
    with pytest.raises(UserError, match=r"actions in \[-1, 1\], found .* 5\]; --option clip=true"):
        ingest(read("omar", tmp_path), "clipped", tmp_path)
    clipped = read("omar", tmp_path, clip=True)
    assert said(clipped, "1 of 150 action values clipped")
    assert ingest(clipped, "clipped", tmp_path).array("actions").max() <= 1.0


def test_rounding_is_said(tmp_path: Path) -> None:
    data = play([4])
    data.obs = data.obs.astype(np.float64) + 1e-12
    data.next_obs = data.next_obs.astype(np.float64) + 1e-12
    foreign_files.omar(tmp_path, data)
    assert said(read("omar", tmp_path, horizon=4), "observations rounded from float64")


def test_what_was_read_is_recorded(tmp_path: Path) -> None:
    import hashlib

    foreign_files.madiff(tmp_path / "data", play([4, 3]))
    found = read("madiff", tmp_path / "data")
    recipe = ingest(found, "recorded", tmp_path).manifest["recipe"]
    content = (tmp_path / "data" / "obs.npy").read_bytes()
    assert recipe["files"]["obs.npy"] == hashlib.sha256(content).hexdigest()
    assert recipe["notes"] == list(found.notes)
    assert recipe["options"] == {"env": None, "clip": False, "final": "drop", "ends": "auto"}
