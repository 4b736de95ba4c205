"""Minibatches for every agent of every seed, with DOM2's data augmentation (Algorithm 1) as weights.

Algorithm 1 appends a copy of every trajectory for each threshold that its return reaches, then draws
transitions uniformly. This equals drawing original transitions with weight w = 1 + number of thresholds
reached. The sampler does exactly that, in integers, without copying data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dom2data import scores, tables
from dom2data.dataset import Dataset, Int64
from dom2data.errors import UserError
from dom2data.spec import Batch, Bool
from dom2data.tables import Source

DEFAULTS: dict[str, tuple[float, ...]] = {
    "quantile": (0.5, 0.75, 0.9, 0.95),
    "score": (25.0, 50.0, 75.0, 100.0),
    "none": (),
}
"""Default values of each mode."""


@dataclass(frozen=True)
class Thresholds:
    """Return thresholds; each one that a trajectory reaches adds 1 to its weight.

    ``mode`` says what ``values`` are (None: the mode's defaults): ``quantile``: quantiles of the dataset's
    returns (.5 .75 .9 .95); ``score``: normalised scores by the published references (25 50 75 100);
    ``absolute``: returns; ``none``: no augmentation. Raises UserError for values invalid in the mode.
    """

    mode: Literal["quantile", "score", "absolute", "none"] = "quantile"
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in (*DEFAULTS, "absolute"):
            raise UserError(f"expected thresholds quantile, score, absolute or none, found {self.mode!r}")
        if self.mode == "absolute" and not self.values:
            raise UserError("expected returns with absolute thresholds, found none; give some")
        if self.mode == "none" and self.values:
            raise UserError(f"expected no values with thresholds none, found {self.values}")
        if self.mode == "quantile" and not all(0 <= q <= 1 for q in self.values or ()):
            raise UserError(f"expected quantiles in [0, 1], found {self.values}")

    def returns(self, dataset: Dataset, counted: Bool) -> NDArray[np.float64]:
        """Return the thresholds as team returns; quantiles are taken over the ``counted`` episodes."""
        values = np.asarray(DEFAULTS[self.mode] if self.values is None else self.values, np.float64)
        if self.mode == "quantile" and counted.any():
            return np.quantile(dataset.returns[counted].astype(np.float64), values)
        return scores.denormalize(dataset.env, values) if self.mode == "score" else values


def weights(dataset: Dataset, thresholds: Thresholds) -> Int64:
    """Return w [episodes] = 1 + number of thresholds that the episode's return reaches (Algorithm 1).

    An episode that was cut short (neither terminated nor of full length) keeps weight 1, because its return
    says little. Lacking only the last step does not count: formats without final observations drop it.
    """
    counted = (dataset.lengths >= dataset.spec.horizon - 1) | dataset.array("terminated")
    reached = dataset.returns[:, None] >= thresholds.returns(dataset, counted)[None, :]
    return 1 + (reached & counted[:, None]).sum(axis=1, dtype=np.int64)


def emphasis(dataset: Dataset, thresholds: Thresholds) -> dict[str, float]:
    """Return how strongly the weights skew uniform draws.

    ``effective_sample_size``: (sum w)^2 / sum w^2 over transitions, the number of equally weighted
    transitions with the same variance. ``top_decile_share``: the probability that a draw comes from the 10 %
    of the episodes with the highest returns.
    """
    w, length = weights(dataset, thresholds).astype(np.float64), dataset.lengths
    best = np.argsort(-dataset.returns, kind="stable")[: max(1, dataset.n_episodes // 10)]
    virtual = w * length
    return {
        "effective_sample_size": float(virtual.sum() ** 2 / (w * virtual).sum()),
        "top_decile_share": float(virtual[best].sum() / virtual.sum()),
    }


class Sampler:
    """Draws a Batch for M = seeds x N members; member m = seed * N + agent.

    Each seed has its own generator, so it sees the same data however many seeds are stacked. The generator
    draws [N, B] transitions, a separate minibatch per agent; with ``joint`` it draws [B], which all agents of
    the seed share, each with its own observations. Rows come from ``source``; without one, the arrays are
    copied to ``device`` once. Rows from memory and from the mapped cache are bitwise equal.
    """

    def __init__(
        self,
        dataset: Dataset,
        thresholds: Thresholds,
        batch_size: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
        joint: bool = False,
        source: Source | None = None,
    ):
        spec = dataset.spec
        self.joint = joint
        self.batch_size, self.generators, self.device = batch_size, tuple(generators), torch.device(device)
        self.n_agents = spec.n_agents
        self.source = tables.in_memory(dataset, self.device) if source is None else source
        self._total = self.source.weigh(weights(dataset, thresholds), batch_size)
        agent = torch.arange(self.n_agents, device=self.source.obs.device, dtype=self.source.index)
        self._agent = agent.repeat(len(self.generators)).repeat_interleave(batch_size)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Draw M x B virtual transitions uniformly; return N x step and N x (row of its observation).

        With all weights 1 a draw is the step itself, so thresholds that no episode reaches change nothing.
        """
        own, shared = (1, self.n_agents) if self.joint else (self.n_agents, 1)
        total, shape = self._total, (own * self.batch_size,)
        draws = [
            torch.randint(total, shape, generator=g, device=g.device).repeat(shared) for g in self.generators
        ]
        return self.source.find(torch.cat(draws).to(self.source.obs.device))

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the rows of ``source.moves`` and ``source.obs`` for the next minibatch, both [M * B]."""
        step, row = (found.add_(self._agent) for found in self._draw())
        return step, row

    def sample(self) -> Batch:
        """Return the next minibatch; fields [M, B, ...]."""
        (step, row), obs = self.draw(), self.source.obs
        next_obs = obs.index_select(0, row + self.n_agents)
        return self.batch(obs.index_select(0, row), next_obs, self.source.moves.index_select(0, step))

    def batch(self, obs: Tensor, next_obs: Tensor, moves: Tensor) -> Batch:
        """Make a minibatch of gathered rows [M * B, ...], on the sampler's device."""
        lead = (len(self.generators) * self.n_agents, self.batch_size)
        obs, next_obs, moves = (part.view(*lead, -1).to(self.device) for part in (obs, next_obs, moves))
        return Batch(obs, moves[..., :-2], moves[..., -2], next_obs, moves[..., -1])

    def state(self) -> list[Tensor]:
        """Return the generators' states, for ``resume``."""
        return [g.get_state() for g in self.generators]

    def resume(self, state: list[Tensor], minibatches: int) -> None:
        """Continue from ``state``, taken after the given number of ``minibatches``."""
        for generator, value in zip(self.generators, state, strict=True):
            generator.set_state(value)
        self.source.seek(minibatches)
