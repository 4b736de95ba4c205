"""Minibatches from a few blocks at a time: every transition as often as it weighs, whatever is held when."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_datasets import drawn, generators, in_memory, stored
from test_fit import same_weights
from tiny import SMALL, new_run

from dom2 import fit, run
from dom2data import dataset, memory, share
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.sampler import Sampler, Thresholds, weights
from dom2data.spec import Batch
from dom2data.stream import AHEAD, Blocks, schedule

RAGGED = [4, 2, 4, 1, 3, 4, 4, 2] * 6
HELD = 4
THRESHOLDS = Thresholds("absolute", (0.0, 1.0))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A dataset of 12 blocks whose episodes cross them."""
    monkeypatch.setattr("dom2data.store.layout.block_episodes", lambda horizon: 3)
    stored(tmp_path, RAGGED)
    return dataset.open("small", tmp_path)


def streamed(data: Dataset, *seeds: int, size: int = 16, joint: bool = False) -> Sampler:
    return Sampler(data, THRESHOLDS, size, generators(*seeds), joint=joint, source=Blocks(data, HELD))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


def test_a_minibatch_is_made_of_transitions(small: Dataset) -> None:
    """Over several epochs, so that every block has been in many places."""
    whole, sampler = in_memory(RAGGED), streamed(small, 0, 1)
    arrays = {name: torch.from_numpy(whole.array(name)) for name in ("observations", "actions", "rewards")}
    agent = torch.tensor([0, 1, 2, 0, 1, 2])[:, None]
    assert small.layout("actions").n_chunks == 12
    for _ in range(100):
        batch = sampler.sample()
        step, episode = drawn(batch, whole)
        row = step + episode
        assert torch.equal(batch.obs, arrays["observations"][row, agent])
        assert torch.equal(batch.next_obs, arrays["observations"][row + 1, agent])
        assert torch.equal(batch.actions, arrays["actions"][step, agent])
        assert torch.equal(batch.rewards, arrays["rewards"][step, agent])
        ends = torch.from_numpy(whole.offsets[1:] - 1)[episode] == step
        terminated = torch.from_numpy(whole.array("terminated"))[episode]
        assert torch.equal(batch.terminated.bool(), ends & terminated)


def test_every_transition_is_drawn_as_often_as_it_weighs(small: Dataset) -> None:
    """Over whole epochs: 150 of them, with draws of one member."""
    weight = np.repeat(weights(small, THRESHOLDS), small.lengths)
    assert set(weight) == {1, 2, 3}
    sampler = streamed(small, 0, size=int(weight.sum()) // 4)  # of one epoch
    steps = torch.cat([drawn(sampler.sample(), small)[0][0] for _ in range(4 * 150)]).numpy()
    counts = np.bincount(steps, minlength=len(small))
    expected = weight / weight.sum() * counts.sum()
    # Blocks have their number of draws and not a random one, so counts spread less than independent ones.
    assert chisquare(counts, expected).pvalue > 1e-3
    assert chisquare(counts).pvalue < 1e-12  # the test can fail


@pytest.mark.parametrize(("held", "batch_size"), [(4, 1), (4, 7), (1, 5), (12, 3), (5, 64)])
def test_every_block_has_its_share(held: int, batch_size: int) -> None:
    """Counted exactly: the share of the draws, B / H, of the minibatches in which a slot has it."""
    shares = np.array([20, 3, 50, 20, 20, 7, 20, 20, 33, 20, 20, 20])
    epochs = 500
    end = int(shares.sum()) * epochs // batch_size
    drawn, since = np.zeros(len(shares)), {}
    for change in schedule(shares, held, batch_size, seed=0):
        if change.minibatch > end:
            break
        if change.slot in since:
            block, began = since[change.slot]
            drawn[block] += change.minibatch - began
        since[change.slot] = (change.block, change.minibatch)
    for block, began in since.values():
        drawn[block] += end - began
    # At both ends of the time a share is not whole, and in each epoch a minibatch may be one more or less.
    found = drawn * batch_size / held / epochs / shares
    np.testing.assert_allclose(found, 1.0, atol=2 / epochs + batch_size / 100)


@pytest.mark.parametrize(("blocks", "held"), [(12, 4), (9, 9), (40, 16), (5, 1)])
def test_one_block_comes_after_another_in_a_new_order_each_epoch(blocks: int, held: int) -> None:
    changes = np.array(list(islice(schedule(np.full(blocks, 100), held, 10, seed=3), blocks * 20)))
    assert set(np.diff(changes[held:, 0])) == {10}  # one at a time, after 100 draws of 10
    orders = changes[:, 2].reshape(20, blocks)
    assert all(set(order) == set(range(blocks)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15


def test_few_blocks_are_in_memory(small: Dataset) -> None:
    source = Blocks(small, HELD)
    most = 4 * 3 * (small.layout("actions").chunk_rows + 3 * 4)  # N rows of a block's steps, or a few more
    assert len(source.obs) <= (HELD + AHEAD) * most
    Sampler(small, THRESHOLDS, 16, generators(0), source=source).sample()
    assert not {"observations", "actions", "rewards"} & set(small._arrays)


def test_a_seed_sees_the_same_data_however_many_are_stacked(small: Dataset) -> None:
    for joint in (False, True):
        stack, alone = (streamed(small, *seeds, joint=joint) for seeds in ((5, 6, 7), (6,)))
        for _ in range(40):
            together, single = stack.sample(), alone.sample()
            assert all(torch.equal(getattr(together, f)[3:6], getattr(single, f)) for f in vars(single))


def test_resumed_at_any_minibatch(small: Dataset) -> None:
    whole = streamed(small, 0)
    states, batches = zip(*((whole.state(), whole.sample()) for _ in range(60)), strict=True)
    for begin in (0, 1, 13, 59):
        again = streamed(small, 99)
        again.resume(states[begin], begin)
        assert all(equal(again.sample(), batch) for batch in batches[begin:])


def test_from_a_url(small: Dataset, tmp_path: Path) -> None:
    share.push(small, tmp_path, f"memory://{tmp_path.name}")
    here, there = streamed(small, 0), streamed(dataset.open("small", f"memory://{tmp_path.name}"), 0)
    assert all(equal(here.sample(), there.sample()) for _ in range(60))


def test_a_damaged_block(small: Dataset, tmp_path: Path) -> None:
    """It is met when its turn comes, and nothing drawn before is wrong."""
    chunk = tmp_path / small.id / "data/actions/c/7/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    sampler = streamed(dataset.open("small", tmp_path), 0)
    with pytest.raises(UserError, match="'actions', chunk 7") as error:
        [sampler.sample() for _ in range(100)]
    assert error.value.code == 3


def test_too_little_memory(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda anonymous=True: 1000)
    with pytest.raises(UserError, match="--stream-blocks") as error:
        Blocks(small)
    assert error.value.code == 1


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, halves = (new_run(tmp_path / name, data="stream") for name in ("whole", "halves"))
    halves.amend(updates=2)
    for each in (whole, halves):
        fit.fit(each)
    run.read(halves.folder).amend(updates=4)
    assert fit.fit(run.read(halves.folder)) == "complete"
    assert same_weights(whole, halves)


def test_windows_are_refused(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", data="stream")
    begun.document["settings"]["algorithm"] = "madiff"
    begun.document["config"] = SMALL["madiff"]
    run.write(begun.folder / "config.json", json.dumps(begun.document))
    with pytest.raises(UserError, match="--data memory or mapped"):
        fit.fit(run.read(begun.folder))
