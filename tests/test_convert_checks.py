"""What readers say of values that are not what they should be, and of those that they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_files
import h5py
import numpy as np
import pytest
from foreign_files import Play, play

from dom2data import convert
from dom2data.convert.ingest import ingest
from dom2data.errors import UserError


def d4rl(tmp_path: Path, **changes: Any) -> Path:
    """A file of one agent, with some arrays replaced."""
    path = foreign_files.d4rl(tmp_path / "a.hdf5", play([4, 4], agents=1))
    with h5py.File(path, "r+") as file:
        for name, values in changes.items():
            del file[name]
            file[name] = values
    return path


def refusal(format_: str, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        ingest(convert.module(format_).read(path), "refused", path.parent)
    assert caught.value.code == 3
    return caught.value.message


@pytest.mark.parametrize("name", ["terminals", "timeouts"])
def test_flags_of_nan_end_no_episode(name: str, tmp_path: Path) -> None:
    message = refusal("d4rl", d4rl(tmp_path, **{name: np.full(8, np.nan)}))
    assert f"{name}: expected flags of 0 and 1, found nan at 0" in message


def test_dones_of_nan_end_no_episode(tmp_path: Path) -> None:
    path = foreign_files.omar(tmp_path, play([25]), dones=np.full(25, np.nan))
    assert "dones_0.npy: expected flags" in refusal("omar", path)


def test_observations_that_are_not_finite_are_called_so(tmp_path: Path) -> None:
    values = np.zeros((8, 5))
    values[3, 1] = np.nan
    message = refusal("d4rl", d4rl(tmp_path, observations=values))
    assert "observations: expected finite values, found others, first in row 3" in message


def test_integers_that_float32_cannot_hold_are_said(tmp_path: Path) -> None:
    found = convert.module("d4rl").read(d4rl(tmp_path, rewards=np.arange(8) + 2**30))
    assert "rewards rounded from int64 to float32" in found.notes


def test_actions_out_of_bounds_name_the_option(tmp_path: Path) -> None:
    message = refusal("d4rl", d4rl(tmp_path, actions=np.full((8, 2), 3.0)))
    assert "expected actions in [-1, 1], found [3, 3]; --option clip=true clips them" in message


@pytest.mark.parametrize(
    ("lengths", "found"),
    [(np.array([4.0, 4.0]), "of integers, found .* float64"), (np.array([0, 8]), "1 or more, found 0")],
)
def test_lengths_that_are_none_are_said(lengths: Any, found: str, tmp_path: Path) -> None:
    foreign_files.madiff(tmp_path / "data", play([4, 4]))
    np.save(tmp_path / "data" / "path_lengths.npy", lengths)
    with pytest.raises(UserError, match=found):
        convert.module("madiff").read(tmp_path / "data")


@pytest.mark.parametrize("format_", ["omar", "omiga"])
@pytest.mark.parametrize("ends", ["auto", "terminated"])
def test_rows_after_the_last_end_did_not_terminate(format_: str, ends: str, tmp_path: Path) -> None:
    data = play([5, 5, 3])
    done = data.ends & (np.arange(13) < 12)
    if format_ == "omar":
        path = foreign_files.omar(tmp_path, data, dones=done)
    else:
        path = foreign_files.omiga(tmp_path / "cut", data)
        with h5py.File(path, "r+") as file:
            file["d"][:] = done[:, None]
    found = convert.module(format_).read(path, ends=ends)
    assert found.arrays["terminated"].tolist() == [ends == "terminated"] * 2 + [False]
    assert found.arrays["truncated"].tolist() == [ends == "auto"] * 2 + [True]


def test_a_horizon_that_divides_the_true_one_is_found_out(tmp_path: Path) -> None:
    path = foreign_files.omar(tmp_path, play([50, 50, 50]))
    with pytest.raises(UserError, match=r"found 3 of 5 to continue .* longer than 25 steps"):
        convert.module("omar").read(path)
    assert len(convert.module("omar").read(path, horizon=50).arrays["offsets"]) == 4


def test_few_observations_may_meet_by_chance(tmp_path: Path) -> None:
    data = play([5, 5, 5, 5, 5, 5])
    data.obs[:] = data.obs[0]
    data.next_obs[:] = data.obs[0]
    data.obs[5] += 1  # one episode begins in the other state
    found = convert.module("omar").read(foreign_files.omar(tmp_path, data), horizon=5)
    assert len(found.arrays["offsets"]) == 7


def test_a_stream_that_ends_within_an_episode_is_said(tmp_path: Path) -> None:
    class Cut(Play):
        ends = np.arange(8) == 3  # and not 7

    stream = Cut(**vars(play([4, 4])))
    foreign_files.vault(tmp_path / "tag.vlt" / "cut", [stream])
    found = convert.module("vault").read(tmp_path / "tag.vlt")
    assert any(
        "last end of 1 streams counted as episodes that were cut short" in note for note in found.notes
    )
