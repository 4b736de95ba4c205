"""The rows that samplers gather minibatches from: one for each (step, agent), in memory or mapped.

A gather of rows is the fastest way to a minibatch, and of few long rows, so an action, its reward and the end
of the episode are one row.
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
"""virtual transitions, or steps, made at a time"""


class Source(Protocol):
    """What a sampler draws from.

    ``obs`` [rows * N, O] and ``moves`` [steps * N, A + 2] (action, reward, 1 where the episode ended for
    good) have the N agents of a step one after another; ``index`` is the integer type of their rows.
    """

    obs: Tensor
    moves: Tensor
    index: torch.dtype

    def weigh(self, weights: Int64, batch_size: int) -> int:
        """Take the weights [episodes]; every draw is an integer from 0 to below the number returned."""
        ...

    def find(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """N x step and N x row of its observation, both [draws], of one minibatch; new tensors."""
        ...

    def seek(self, minibatches: int) -> None:
        """Go to where ``find`` has been called so many times since ``weigh``."""
        ...


class Tables:
    """The whole dataset, in memory or mapped.

    ``virtual(weights)`` and ``to_go(gamma)`` make the tables that depend on these: N x step and N x row of
    every virtual transition [V] (``virtual_rows``), and the discounted returns [steps, N].
    ``files`` are those of ``obs`` and ``moves`` if they are mapped and have no room in memory.
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
        """Nothing: a draw depends on no other."""


def in_memory(dataset: Dataset, device: torch.device | str) -> Tables:
    """The tables in the memory of a device."""

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
    """Action, reward and end [steps, N, A + 2] of the steps from number ``first`` on."""
    moves = np.empty((*rewards.shape, dataset.spec.act_dim + 2), np.float32)
    fill_moves(moves, dataset, actions, rewards, first)
    return moves


def fill_moves(moves: Float32, dataset: Dataset, actions: Float32, rewards: Float32, first: int) -> None:
    """The same, into an array that is there."""
    moves[..., :-2], moves[..., -2], moves[..., -1] = actions, rewards, 0.0
    stops = dataset.offsets[1:]
    here = slice(*np.searchsorted(stops, (first + 1, first + len(moves) + 1)))
    moves[stops[here] - 1 - first, :, -1] = dataset.array("terminated")[here, None]


def index_type(dataset: Dataset) -> type[np.signedinteger[Any]]:
    """The integers that number the rows of all agents; half the table where 32 bits do."""
    rows = (len(dataset) + dataset.n_episodes) * dataset.spec.n_agents
    return np.int32 if rows < 2**31 else np.int64


def pieces(sizes: Int64) -> Iterator[tuple[int, int]]:
    """Ranges of episodes that have about ``PIECE`` of something together; ``sizes`` [episodes] of each."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + PIECE, side="right")))
        yield first, stop
        first = stop


def virtual_rows(dataset: Dataset, weights: Int64) -> Iterator[NDArray[np.signedinteger[Any]]]:
    """N x step and N x row of its observation [2, n], of every virtual transition, some episodes at a time.

    The steps of each episode come as often in a row as it weighs. A table, because looking a draw up in it
    takes a fifth of the time of searching for its episode.
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
    """G_t = r_t + gamma G_{t+1} within each episode, 0 after its last step; [steps, N] like ``rewards``.

    Episode i is the steps ``offsets[i]:offsets[i + 1]``.
    """
    result, lengths = rewards.astype(np.float64), np.diff(offsets)
    for back in range(1, int(lengths.max())):
        step = offsets[1:][lengths > back] - 1 - back
        result[step] += gamma * result[step + 1]
    return result.astype(np.float32)
