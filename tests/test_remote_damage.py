"""What was damaged or lost behind a URL, sent again."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import stored

from dom2data import dataset, ids, share
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.store import remote
from dom2data.verify import verify


def chunk(url: str) -> tuple[remote.Place, str]:
    """A place, and a file of the rewards there."""
    place = remote.Place(url)
    place.fs.invalidate_cache()
    return place, next(name for name in sorted(place.fs.find(place.path)) if "/rewards/c/" in name)


def test_a_damaged_copy_is_replaced_with_force(url: str, tmp_path: Path) -> None:
    small = stored(tmp_path, [4, 2, 3])
    share.push(small, tmp_path, url)
    place, name = chunk(url)
    content = bytearray(place.fs.cat_file(name))
    content[3] ^= 4
    place.fs.pipe_file(name, bytes(content))
    share.push(small, tmp_path, url)  # as large as it should be: what is there is left alone
    with pytest.raises(UserError, match="rewards"):
        verify(dataset.open("small", url))
    share.push(small, tmp_path, url, force=True)
    assert verify(dataset.open("small", url))


def test_a_copy_that_lost_a_file_is_sent_again(url: str, tmp_path: Path) -> None:
    small = stored(tmp_path, [4, 2, 3])
    share.push(small, tmp_path, url)
    place, name = chunk(url)
    place.fs.rm_file(name)
    share.push(small, tmp_path, url)
    assert verify(dataset.open("small", url))


def test_a_dataset_replaced_while_it_is_sent(url: str, tmp_path: Path) -> None:
    """Chunks of as many bytes, so that a mixture of both would look whole."""
    small = stored(tmp_path, [4, 2, 3])

    def replace(task: str, done: int, _: int) -> None:
        if (task, done) == ("uploading", 5):
            stored(tmp_path, [4, 2, 3], seed=1, force=True)

    with pytest.raises(UserError, match="as it was opened, found it replaced; start again") as error:
        share.push(small, tmp_path, url, progress=replace)
    assert error.value.code == FAILED
    with pytest.raises(UserError, match="expected a dataset under"):
        dataset.open("small", url)
    new = dataset.open("small", tmp_path)
    share.push(new, tmp_path, url)
    assert dataset.open("small", url).hash == new.hash != small.hash
    assert verify(dataset.open("small", url))


def test_chunks_of_another_dataset(url: str, tmp_path: Path) -> None:
    """As large as they should be, and intact: their checksums say nothing against them."""
    small = stored(tmp_path, [4, 2, 3])
    share.push(small, tmp_path, url)
    place, ours, chunk = remote.Place(url), ids.directory(small.id, tmp_path), "actions/c/0/0/0"
    other = stored(tmp_path, [4, 2, 3], name="other", seed=1)
    theirs = (ids.directory(other.id, tmp_path) / chunk).read_bytes()
    (ours / chunk).write_bytes(theirs)
    place.fs.pipe_file(f"{place.folder(small.id)}/{chunk}", theirs)
    for root in (tmp_path, url):
        found = dataset.open("small", root)
        with pytest.raises(UserError, match=f"{root}.*array 'actions', chunk 0: expected the hash") as error:
            found.array("actions")
        assert error.value.code == CHECK_FAILED


def test_a_copied_dataset_is_not_the_other(url: str, tmp_path: Path) -> None:
    small = stored(tmp_path, [4, 2, 3])
    share.push(small, tmp_path, url)
    place = remote.Place(url)
    for name in place.fs.find(place.folder(small.id)):
        copy = name.replace(small.id, "dom2/other-v0")
        place.fs.makedirs(copy.rpartition("/")[0], exist_ok=True)
        place.fs.pipe_file(copy, place.fs.cat_file(name))
    for use in (lambda: dataset.open("other", url), lambda: share.pull("other", url, tmp_path)):
        with pytest.raises(UserError, match=f"expected dom2/other-v0, found {small.id} in a folder") as error:
            use()
        assert error.value.code == CHECK_FAILED
