"""Gathers many minibatches of a sampler at a time, in file order: for tables on disk that exceed memory.

Rows drawn at random cost one disk request each. Drawn for hundreds of minibatches ahead and sorted, they cost
one pass through the file. The draws, and so the minibatches, are bitwise those of the sampler.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dom2data import memory
from dom2data.errors import FAILED, UserError
from dom2data.sampler import Sampler
from dom2data.spec import Batch
from dom2data.tables import Tables

WINDOW = 1 << 23
"""bytes of a file to read at a time"""
MOST = 1 << 31
"""limit in bytes for the minibatches gathered at once; with more, the first would take long to arrive"""


class Gathered(NamedTuple):
    """The rows [M * B, ...] of a minibatch, and the generators' states before it was drawn."""

    state: list[Tensor]
    obs: Tensor
    next_obs: Tensor
    moves: Tensor


class ReadAhead:
    """Gathers ``minibatches`` of ``sampler`` at a time from ``files``, those of its tables ``source``.

    A separate thread gathers the next group meanwhile. Without a number, a group takes a quarter of the free
    memory, at most ``MOST`` bytes.
    """

    def __init__(
        self, sampler: Sampler, source: Tables, files: tuple[Path, Path], minibatches: int | None = None
    ):
        self._sampler, self._source, self._files = sampler, source, files
        rows = len(sampler.generators) * sampler.n_agents * sampler.batch_size
        width = 2 * source.obs.shape[1] + source.moves.shape[1]
        nbytes = rows * (4 * width + 64)  # including memory for sorting
        free = memory.available()
        room = MOST if free is None else min(MOST, free // 4)
        self._at_once = minibatches or max(1, room // nbytes)
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._ready: deque[Gathered] = deque()
        self._coming: Future[list[Gathered]] | None = None

    def sample(self) -> Batch:
        """Return the next minibatch; fields [M, B, ...]."""
        self._advance()
        _, *rows = self._ready.popleft()
        return self._sampler.batch(*rows)

    def state(self) -> list[Tensor]:
        """Return the generators' states, for ``resume``."""
        self._advance()
        return self._ready[0].state

    def resume(self, state: list[Tensor], minibatches: int) -> None:
        """Continue from ``state``, taken after the given number of ``minibatches``."""
        if self._coming:
            self._coming.result()
        self._coming = None
        self._ready.clear()
        self._sampler.resume(state, minibatches)

    def _advance(self) -> None:
        if not self._ready:
            coming = self._coming or self._thread.submit(self._gather)
            self._ready.extend(coming.result())
            self._coming = self._thread.submit(self._gather)

    def _gather(self) -> list[Gathered]:
        states, steps, rows = [], [], []
        for _ in range(self._at_once):
            states.append(self._sampler.state())
            step, row = self._sampler.draw()
            steps.append(step)
            rows.append(row)
        obs_file, moves_file = self._files
        (moves,) = _pass(moves_file, self._source.moves, torch.cat(steps), (0,))
        obs, next_obs = _pass(obs_file, self._source.obs, torch.cat(rows), (0, self._sampler.n_agents))
        parts = (part.chunk(self._at_once) for part in (obs, next_obs, moves))
        return [Gathered(*each) for each in zip(states, *parts, strict=True)]


def _pass(file: Path, table: Tensor, rows: Tensor, offsets: tuple[int, ...]) -> list[Tensor]:
    """Read the given ``rows`` of a table, shifted by each of ``offsets``, in one pass through its file.

    Reads instead of mapping, because the system takes ten times as long to evict mapped pages.
    """
    found, order = rows.sort()
    results = [torch.empty(len(rows), table.shape[1]) for _ in offsets]
    size = table.shape[1] * table.element_size()
    step, more = max(1, WINDOW // size), max(offsets)
    window = torch.empty(step + more, table.shape[1])
    into = window.numpy().reshape(-1).view(np.uint8).data
    firsts = range(0, len(table), step)
    cuts = torch.searchsorted(found, torch.tensor([*firsts, len(table)], dtype=rows.dtype)).tolist()
    with file.open("rb", buffering=0) as opened:
        for first, (begin, end) in zip(firsts, itertools.pairwise(cuts), strict=True):
            if begin == end:
                continue
            opened.seek(first * size)
            wanted = min(len(into), (len(table) - first) * size)
            done = 0
            while done < wanted and (read := opened.readinto(into[done:wanted])):
                done += read
            if done < wanted:
                raise UserError(
                    f"{file}: expected {len(table) * size:,} bytes, found fewer; delete it", FAILED
                )
            for offset, result in zip(offsets, results, strict=True):
                here = found[begin:end] - first + offset
                result.index_copy_(0, order[begin:end], window.index_select(0, here))
            if hasattr(os, "posix_fadvise"):  # evicted before the next pass anyway
                os.posix_fadvise(opened.fileno(), first * size, wanted, os.POSIX_FADV_DONTNEED)
    return results
