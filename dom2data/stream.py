"""Draws from a few blocks held in memory: for datasets that fit on no local disk, or only on a slow one.

Uniform draws need every row at any time. This source holds H blocks (chunks of the store) and draws only from
them: first one of the H blocks, uniformly, then one of its virtual transitions. A block leaves after its
share of draws, in expectation one per virtual transition, and the next block of a shuffled order replaces it.
So in every pass each transition is drawn in proportion to its weight. Only the timing differs from uniform
draws: two transitions can be in the same minibatch only if their blocks are held at the same time.

Which blocks are held at a minibatch depends only on the dataset, its weights, H and B. It is the same for
every seed, and can be computed for any minibatch without drawing the earlier ones.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dom2data import memory, tables
from dom2data.dataset import Dataset, Int64

AHEAD = 2
"""blocks that are loaded ahead"""
DRAW_BITS, SLOT_BITS = 62, 20
"""bits of a draw, and how many of them choose the slot; the others choose within its block"""


class Change(NamedTuple):
    """From minibatch number ``minibatch`` on, ``slot`` holds ``block``."""

    minibatch: int
    slot: int
    block: int


def schedule(shares: Int64, held: int, batch_size: int, seed: int) -> Iterator[Change]:
    """Yield which block enters which of the ``held`` slots when, endlessly; ``shares`` [blocks] in draws.

    A slot gets B / H of the draws of a minibatch, so a block stays for share * H / B minibatches; in units of
    1 / B these are integers. The schedule starts as if already running: each of the first blocks has a
    different part of its share left, because otherwise all would be replaced at the same time.
    """
    queue = _order(len(shares), seed)
    ends: list[tuple[int, int]] = []
    for slot in range(held):
        block = next(queue)
        heapq.heappush(ends, (int(shares[block]) * (slot + 1), slot))
        yield Change(0, slot, block)
    while True:
        (end, slot), block = heapq.heappop(ends), next(queue)
        stays = int(shares[block]) * held
        heapq.heappush(ends, (end + stays, slot))
        begins, leaves = (-(-at // batch_size) for at in (end, end + stays))
        if begins < leaves:  # otherwise its time falls between two minibatches
            yield Change(begins, slot, block)


def _order(blocks: int, seed: int) -> Iterator[int]:
    """Yield every block once per epoch, in shuffled order."""
    for epoch in itertools.count():
        yield from np.random.default_rng((seed, epoch)).permutation(blocks).tolist()


class Blocks:
    """A ``tables.Source`` of ``held`` blocks (or all, if fewer exist), with ``AHEAD`` more being loaded.

    ``obs`` and ``moves`` are buffers for that many blocks, filled by a separate thread. Raises UserError when
    they do not fit into memory; ``find`` raises what ``Dataset.chunk`` raises.
    """

    def __init__(self, dataset: Dataset, held: int = 16):
        spec, layout = dataset.spec, dataset.layout("actions")
        self._dataset, self._n = dataset, spec.n_agents
        self.held = min(held, layout.n_chunks)
        # First step of each block and its episode [blocks + 1]; range of observation rows [2, blocks].
        starts = np.minimum(np.arange(layout.n_chunks + 1) * layout.chunk_rows, len(dataset))
        self._first = starts
        self._episode = np.searchsorted(dataset.offsets, starts, side="right") - 1
        last = np.searchsorted(dataset.offsets, starts[1:] - 1, side="right") - 1
        self._rows = np.stack([starts[:-1] + self._episode[:-1], starts[1:] + last + 1])  # up to, without
        self._regions = self.held + AHEAD
        self._steps_most = int(np.diff(starts).max())
        self._rows_most = int(np.diff(self._rows, axis=0).max())
        rows, steps = (self._regions * most * self._n for most in (self._rows_most, self._steps_most))
        self.index = torch.int32 if max(rows, steps) < 2**31 else torch.int64
        need = 4 * (rows * spec.obs_dim + steps * (spec.act_dim + 2))
        memory.require(need, f"{self._regions} blocks of {dataset.id}", "give fewer --stream-blocks")
        self.obs = torch.empty(rows, spec.obs_dim)
        self.moves = torch.empty(steps, spec.act_dim + 2)
        self._loader = ThreadPoolExecutor(1, "blocks")
        self._upcoming: deque[tuple[Change, int, Future[None]]] = deque()

    def weigh(self, weights: Int64, batch_size: int) -> int:
        dataset, self._weights, self._batch_size = self._dataset, weights, batch_size
        before = np.concatenate(([0], np.cumsum(weights * dataset.lengths)))
        within = self._first - dataset.offsets[self._episode]
        heavy = np.append(weights, 0)  # the last of the starts belongs to no episode
        self._shares = np.diff(before[self._episode] + heavy[self._episode] * within)
        self._virtual_most = int(self._shares.max())
        # Bits of a draw that choose within a block: as many as keep the product in ``find`` within 63 bits.
        self._bits = min(DRAW_BITS - SLOT_BITS, 63 - self._virtual_most.bit_length())
        self._virtual = torch.empty(2, self._regions * self._virtual_most, dtype=self.index)
        self.seek(0)
        return 2**DRAW_BITS

    def seek(self, minibatches: int) -> None:
        for *_, future in self._upcoming:
            future.cancel()
        self._upcoming.clear()
        self._clock, self._started = minibatches, False

    def find(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        if not self._started:
            self._start()
        while self._upcoming[0][0].minibatch <= self._clock:
            change, region, future = self._upcoming.popleft()
            future.result()
            self._free.append(int(self._region[change.slot]))
            self._region[change.slot], self._share[change.slot] = region, int(self._shares[change.block])
            self._load_ahead()
        self._clock += 1
        # Multiply and shift, which takes a tenth of the time of a division. Uniform to 1 part in 30,000 or
        # better for blocks of fewer than 2^24 draws.
        slot = ((draws & (2**SLOT_BITS - 1)) * self.held) >> SLOT_BITS
        part = draws >> (DRAW_BITS - self._bits)
        at = (part * self._share.index_select(0, slot)) >> self._bits
        at += self._region.index_select(0, slot) * self._virtual_most
        return self._virtual[0].index_select(0, at), self._virtual[1].index_select(0, at)

    def _start(self) -> None:
        """Load the blocks that are held at this minibatch, without the earlier ones."""
        seed = int(self._dataset.hash[:15], 16)
        self._changes = schedule(self._shares, self.held, self._batch_size, seed)
        slots = [0] * self.held
        change = next(self._changes)
        while change.minibatch <= self._clock:
            slots[change.slot] = change.block
            change = next(self._changes)
        self._next = change
        self._region, self._share = torch.arange(self.held), torch.from_numpy(self._shares[slots])
        for future in [self._loader.submit(self._load, b, region) for region, b in enumerate(slots)]:
            future.result()
        self._free = list(range(self.held, self._regions))
        self._started = True
        self._load_ahead()

    def _load_ahead(self) -> None:
        while self._free:
            change, region = self._next, self._free.pop()
            self._upcoming.append((change, region, self._loader.submit(self._load, change.block, region)))
            self._next = next(self._changes)

    def _load(self, block: int, region: int) -> None:
        """Load a block into a region of the buffers that nothing reads at the moment."""
        data, spec, n = self._dataset, self._dataset.spec, self._n
        first, stop = (int(step) for step in self._first[block : block + 2])
        row, row_stop = (int(r) for r in self._rows[:, block])
        moves = self.moves.view(self._regions, self._steps_most, n, -1)[region, : stop - first].numpy()
        tables.fill_moves(moves, data, data.chunk("actions", block), data.chunk("rewards", block), first)
        obs = self.obs.view(self._regions, self._rows_most, n, spec.obs_dim)[region].numpy()
        layout = data.layout("observations")
        for chunk in range(row // layout.chunk_rows, (row_stop - 1) // layout.chunk_rows + 1):
            rows = layout.rows(chunk)
            begin, end = max(row, rows.start), min(row_stop, rows.stop)
            found = data.chunk("observations", chunk)
            obs[begin - row : end - row] = found[begin - rows.start : end - rows.start]
        virtual = self._virtual.view(2, self._regions, self._virtual_most)[:, region]
        self._write_virtual(virtual[:, : int(self._shares[block])].numpy(), block, region)

    def _write_virtual(self, virtual: NDArray[np.signedinteger[Any]], block: int, region: int) -> None:
        """Write N x step and N x row, in the buffers, of every virtual transition of a block."""
        first, stop = self._first[block], self._first[block + 1]
        steps = np.arange(first, stop)
        episode = np.searchsorted(self._dataset.offsets, steps, side="right") - 1
        local = np.repeat(steps - first, self._weights[episode])
        of = np.repeat(episode, self._weights[episode])
        np.multiply(local + region * self._steps_most, self._n, out=virtual[0], casting="unsafe")
        rows = local + first + of - self._rows[0, block] + region * self._rows_most
        np.multiply(rows, self._n, out=virtual[1], casting="unsafe")
