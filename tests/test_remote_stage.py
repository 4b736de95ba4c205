"""Blocks sent straight to a URL: the same dataset, and what is left when the place fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dom2data import collect, dataset, generate
from dom2data.errors import UserError
from dom2data.executors import Local, Processes
from dom2data.sampler import Sampler, Thresholds
from dom2data.store import remote
from dom2data.stream import Blocks
from dom2data.verify import verify

ID = "dom2/tag-random-medium-v0"


pytestmark = pytest.mark.usefixtures("small_blocks")


def plan(root: Path | str, **how: Any) -> generate.Plan:
    return generate.plan("tag", "random-medium", **({"steps": 2_500} | how), root=root)


def failing_after(writes: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes some objects and then raises."""
    real, count = remote.write, iter(range(writes))

    def write(place: remote.Place, content: bytes, target: str) -> None:
        if next(count, None) is None:
            raise error
        real(place, content, target)

    monkeypatch.setattr(remote, "write", write)


def test_the_same_dataset(url: str, tmp_path: Path) -> None:
    there = plan(url, steps=1_500)
    executor = Processes(2) if url.startswith("s3") else Local()  # memory is not shared
    made = generate.generate(there, executor=executor)
    assert made.hash == generate.generate(plan(tmp_path / "here", steps=1_500)).hash
    assert verify(made)
    place = remote.Place(url)
    place.fs.invalidate_cache()
    assert not [name for name in place.fs.find(place.path) if ".dom2data" in name]
    with pytest.raises(UserError, match="expected a new id"):
        generate.generate(there)
    assert generate.generate(there, force=True).hash == made.hash


def test_streamed_from_there(url: str, tmp_path: Path) -> None:
    generate.generate(plan(url, steps=1_500))
    generate.generate(plan(tmp_path / "here", steps=1_500))

    def sampler(root: Path | str) -> Sampler:
        found = dataset.open("tag-random-medium", root)
        generators = [torch.Generator().manual_seed(3)]
        return Sampler(found, Thresholds(), 16, generators, source=Blocks(found, 2))

    here, there = sampler(tmp_path / "here"), sampler(url)
    for _ in range(40):
        mine, its = here.sample(), there.sample()
        assert torch.equal(mine.obs, its.obs)
        assert torch.equal(mine.rewards, its.rewards)


def test_a_full_store_keeps_what_it_has(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of 8 chunks and a note each, then nothing more; the same command goes on with the third."""
    with monkeypatch.context() as patch:
        metadata = 10 + 1  # of the arrays and their group, and the recipe
        failing_after(metadata + 2 * 9 + 4, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), patch)
        with pytest.raises(UserError, match=r"expected to reach .*No space left.*the same command") as error:
            generate.generate(plan(url))
    assert error.value.code == 1
    with pytest.raises(UserError, match="found no dom2/tag-random-medium"):
        dataset.open("tag-random-medium", url)
    blocks: list[int] = []
    real = collect.collect_block
    monkeypatch.setattr(generate, "collect_block", lambda job: blocks.append(job.block) or real(job))
    made = generate.generate(plan(url))
    assert blocks == [2, 3, 4]
    assert made.hash == generate.generate(plan(tmp_path / "here")).hash


@pytest.mark.parametrize("array", ["returns", "agent_returns", "rewards"])
def test_a_block_that_lost_a_chunk_is_made_again(
    array: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns are read before the commit looks whether everything is there."""
    url = f"file://{tmp_path}/there"
    with monkeypatch.context() as patch:
        patch.setattr(generate, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate.generate(plan(url, steps=1_500))
    place = remote.Place(url)
    (chunk,) = place.fs.find(f"{place.folder(ID)}/{array}/c/0")
    place.fs.rm_file(chunk)
    blocks: list[int] = []
    real = collect.collect_block
    monkeypatch.setattr(generate, "collect_block", lambda job: blocks.append(job.block) or real(job))
    made = generate.generate(plan(url, steps=1_500))
    assert blocks == [0]
    assert made.hash == generate.generate(plan(tmp_path / "here", steps=1_500)).hash


@pytest.mark.parametrize("name", ["zarr.json", "returns/zarr.json", "rewards/zarr.json", "offsets/zarr.json"])
@pytest.mark.parametrize("when", ["before", "during the last step"])
def test_metadata_that_was_lost_is_made_again(
    name: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = generate.generate(plan(tmp_path / "here", steps=1_500))
    place, publish = remote.Place(f"file://{tmp_path}/there"), generate.publish

    def loses(*given: Any) -> Any:
        place.fs.rm_file(f"{place.folder(ID)}/{name}")
        if when == "before":
            raise KeyboardInterrupt
        return publish(*given)

    with monkeypatch.context() as patch:
        patch.setattr(generate, "publish", loses)
        with pytest.raises(KeyboardInterrupt if when == "before" else UserError) as error:
            generate.generate(plan(place.url, steps=1_500))
    assert when == "before" or "the same command" in str(error.value)
    monkeypatch.setattr(generate, "collect_block", lambda job: pytest.fail("work was done"))
    made = generate.generate(plan(place.url, steps=1_500))
    assert made.hash == here.hash
    assert verify(made)


def test_expired_credentials_cost_no_work(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_after(0, PermissionError("The security token included in the request is expired"), monkeypatch)
    monkeypatch.setattr(generate, "collect_block", lambda job: pytest.fail("work was done"))
    with pytest.raises(UserError, match=r"token included in the request is expired; check .*credentials"):
        generate.generate(plan(url))


def test_an_upload_there_is_not_continued(url: str) -> None:
    place = remote.Place(url)
    remote.write(place, b"another's", f"{place.folder(ID)}/{remote.UPLOADING}")
    with pytest.raises(UserError, match="found another recipe or an upload there"):
        generate.generate(plan(url, steps=1_500))
    assert generate.generate(plan(url, steps=1_500), force=True).n_episodes == 60


def test_training_buffers_are_made_in_a_folder(url: str) -> None:
    todo = generate.plan("tag", "medium-replay", root=url)
    with pytest.raises(UserError, match=r"expected a folder for .*, whose size is not known beforehand"):
        generate.generate(todo)
