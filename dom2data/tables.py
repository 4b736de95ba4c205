"""The tables that samplers gather minibatches from: one row per (step, agent), in memory or memory-mapped.

Gathering rows is the fastest way to build a minibatch, and few long rows are faster than many short ones. So
an action, its reward and the end-of-episode flag share one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dom2data.dataset import Dataset, Int64
from dom2data.spec import Float32

PIECE = 1 << 17
"""virtual transitions, or steps, computed at a time"""


class Source(Protocol):
    """A source of rows for a sampler.

    ``obs`` [rows * N, O] and ``moves`` [steps * N, A + 2] (action, reward, 1 where the episode terminated)
    hold the N agents of a step in consecutive rows; ``index`` is the integer type of row numbers.
    """

    obs: Tensor
    moves: Tensor
    index: torch.dtype

    def weigh(self, weights: Int64, batch_size: int) -> int:
        """Set the weights [episodes]; return n, so that draws for ``find`` are integers in [0, n)."""
        ...

    def find(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return N x step and N x (row of its observation), both [draws], of one minibatch; new tensors."""
        ...

    def seek(self, minibatches: int) -> None:
        """Move to the state after ``minibatches`` calls of ``find`` since ``weigh``."""
        ...


class Tables:
    """The whole dataset, in memory or memory-mapped.

    ``virtual(weights)`` computes N x step and N x row of every virtual transition [V] (``virtual_rows``),
    ``to_go(gamma)`` the discounted returns [steps, N].
    ``files`` are the files of ``obs`` and ``moves`` if these are mapped and do not fit into memory.
    """

    def __init__(
        self,
        obs: Tensor,
        moves: Tensor,
        virtual: Callable[[Int64], tuple[Tensor, Tensor]],
        to_go: Callable[[float], Tensor],
        files: tuple[Path, Path] | None = None,
    ):
        self.obs, self.moves, self.virtual, self.to_go, self.files = obs, moves, virtual, to_go, files

    def weigh(self, weights: Int64, batch_size: int) -> int:
        self._steps, self._rows = self.virtual(weights)
        self.index = self._steps.dtype
        return len(self._steps)

    def find(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        return self._steps.index_select(0, draws), self._rows.index_select(0, draws)

    def seek(self, minibatches: int) -> None:
        """Do nothing: draws are independent of each other."""


def in_memory(dataset: Dataset, device: torch.device | str) -> Tables:
    """Build the tables in the memory of a device."""

    def put(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def virtual(weights: Int64) -> tuple[Tensor, Tensor]:
        table, done = np.empty((2, int((weights * dataset.lengths).sum())), index_type(dataset)), 0
        for piece in virtual_rows(dataset, weights):
            table[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
        steps, rows = put(table)
        return steps, rows

    def to_go(gamma: float) -> Tensor:
        return put(returns_to_go(dataset.array("rewards"), dataset.offsets, gamma))

    moves = moves_of(dataset, dataset.array("actions"), dataset.array("rewards"), 0)
    return Tables(
        put(dataset.array("observations")).reshape(-1, dataset.spec.obs_dim),
        put(moves).reshape(-1, moves.shape[-1]),
        virtual,
        to_go,
    )


def moves_of(dataset: Dataset, actions: Float32, rewards: Float32, first: int) -> Float32:
    """Return action, reward and termination flag [steps, N, A + 2] of the steps from number ``first`` on."""
    moves = np.empty((*rewards.shape, dataset.spec.act_dim + 2), np.float32)
    fill_moves(moves, dataset, actions, rewards, first)
    return moves


def fill_moves(moves: Float32, dataset: Dataset, actions: Float32, rewards: Float32, first: int) -> None:
    """Like ``moves_of``, but fill the array ``moves``."""
    moves[..., :-2], moves[..., -2], moves[..., -1] = actions, rewards, 0.0
    stops = dataset.offsets[1:]
    here = slice(*np.searchsorted(stops, (first + 1, first + len(moves) + 1)))
    moves[stops[here] - 1 - first, :, -1] = dataset.array("terminated")[here, None]


def index_type(dataset: Dataset) -> type[np.signedinteger[Any]]:
    """Return the integer type for row numbers; 32 bits, where they suffice, halve the table."""
    rows = (len(dataset) + dataset.n_episodes) * dataset.spec.n_agents
    return np.int32 if rows < 2**31 else np.int64


def pieces(sizes: Int64) -> Iterator[tuple[int, int]]:
    """Yield ranges of episodes whose ``sizes`` [episodes] add up to about ``PIECE``."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + PIECE, side="right")))
        yield first, stop
        first = stop


def virtual_rows(dataset: Dataset, weights: Int64) -> Iterator[NDArray[np.signedinteger[Any]]]:
    """Yield N x step and N x (row of its observation) [2, n] of all virtual transitions, in pieces.

    An episode of weight w appears w times in a row. A table is used because looking up a draw in it takes a
    fifth of the time of searching for the draw's episode.
    """
    number, offsets = index_type(dataset), dataset.offsets
    for first, stop in pieces(weights * dataset.lengths):
        lengths = dataset.lengths[first:stop]
        virtual = weights[first:stop] * lengths
        episode, starts = np.repeat(np.arange(stop - first), virtual), np.cumsum(virtual) - virtual
        within = (np.arange(virtual.sum()) - starts[episode]) % lengths[episode]
        step = offsets[first + episode] + within
        rows = np.stack([step, step + first + episode])  # T+1 rows per episode
        yield (rows * dataset.spec.n_agents).astype(number)


def returns_to_go(rewards: Float32, offsets: Int64, gamma: float) -> Float32:
    """Return G_t = r_t + gamma G_{t+1} within each episode, with G = 0 after its last step; [steps, N].

    Episode i is the steps ``offsets[i]:offsets[i + 1]``.
    """
    result, lengths = rewards.astype(np.float64), np.diff(offsets)
    for back in range(1, int(lengths.max())):
        step = offsets[1:][lengths > back] - 1 - back
        result[step] += gamma * result[step + 1]
    return result.astype(np.float32)
