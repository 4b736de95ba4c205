"""The arrays of a dataset, their shapes, and how they are cut into chunks.

A block is a fixed number of whole episodes. Chunk b of every array except ``offsets`` holds exactly block b
(if all episodes last the full horizon), so blocks are written, hashed and resumed independently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dom2data.spec import EnvSpec

_ITEMSIZE = {"bool": 1, "float32": 4, "int64": 8}
_BLOCK_EPISODES = {25: 2_500, 1000: 50}


def block_episodes(horizon: int) -> int:
    """Return the episodes per block of about 50,000 steps. Never change this: content hashes depend on it."""
    return _BLOCK_EPISODES.get(horizon, max(1, 50_000 // horizon))


@dataclass(frozen=True)
class ArrayLayout:
    """dtype, shape and rows per chunk of one array; chunks span all axes but the first."""

    dtype: str
    shape: tuple[int, ...]
    chunk_rows: int

    @property
    def n_chunks(self) -> int:
        return math.ceil(self.shape[0] / self.chunk_rows)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a stored chunk. Chunks are not compressed, so a single chunk is not padded."""
        return (max(1, min(self.chunk_rows, self.shape[0])), *self.shape[1:])

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a stored chunk, without its checksum."""
        return _ITEMSIZE[self.dtype] * math.prod(self.chunk_shape)

    @property
    def nbytes(self) -> int:
        return _ITEMSIZE[self.dtype] * math.prod(self.shape)

    def rows(self, chunk: int) -> slice:
        """Return the rows of chunk number ``chunk``."""
        start = chunk * self.chunk_rows
        return slice(start, min(start + self.chunk_rows, self.shape[0]))

    def chunk_key(self, chunk: int) -> str:
        """Return the path of a chunk below the array's folder."""
        return "/".join(["c", str(chunk), *["0"] * (len(self.shape) - 1)])

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": list(self.shape), "chunk_rows": self.chunk_rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ArrayLayout:
        return cls(value["dtype"], tuple(value["shape"]), value["chunk_rows"])


def chunk_file(name: str, array: ArrayLayout, chunk: int) -> str:
    """Return the path of an array's chunk below ``data``."""
    return f"{name}/{array.chunk_key(chunk)}"


def layout(spec: EnvSpec, episodes: int, steps: int, block: int | None = None) -> dict[str, ArrayLayout]:
    """Return the arrays of a dataset with ``episodes`` episodes and ``steps`` steps in total.

    ``observations`` has T+1 rows per episode: step t of episode i is row ``t + i``.
    """
    block = block or block_episodes(spec.horizon)
    n, rows = spec.n_agents, block * spec.horizon
    return {
        "observations": ArrayLayout("float32", (steps + episodes, n, spec.obs_dim), rows + block),
        "actions": ArrayLayout("float32", (steps, n, spec.act_dim), rows),
        "rewards": ArrayLayout("float32", (steps, n), rows),
        "offsets": ArrayLayout("int64", (episodes + 1,), episodes + 1),
        "returns": ArrayLayout("float32", (episodes,), block),
        "agent_returns": ArrayLayout("float32", (episodes, n), block),
        "terminated": ArrayLayout("bool", (episodes,), block),
        "truncated": ArrayLayout("bool", (episodes,), block),
        "source": ArrayLayout("int64", (episodes,), block),
    }


def laid_out(spec: EnvSpec, arrays: Mapping[str, Any]) -> dict[str, ArrayLayout]:
    """Return how arrays will be stored; additional ones hold one number per episode, like ``source``."""
    found = layout(spec, len(arrays["offsets"]) - 1, len(arrays["actions"]))
    return found | {name: found["source"] for name in arrays if name not in found}
