"""Minibatches for every agent of every seed, with the data augmentation of DOM2's Algorithm 1 as weights.

Algorithm 1 appends every trajectory once more for each threshold that its return reaches, and then draws
transitions uniformly. That is drawing from the original ones with weight w = 1 + number of thresholds
reached; here it is done exactly, in integers, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dom2data import scores
from dom2data.dataset import Dataset, Int64
from dom2data.errors import UserError
from dom2data.spec import Batch, Bool, Float32

_DEFAULTS = {"quantile": (0.5, 0.75, 0.9, 0.95), "score": (25.0, 50.0, 75.0, 100.0), "none": ()}


@dataclass(frozen=True)
class Thresholds:
    """The returns from which on a trajectory counts once more. ``values`` None: the defaults of the mode.

    ``quantile``: quantiles of the dataset's own returns (.5 .75 .9 .95); ``score``: published normalised
    scores (25 50 75 100); ``absolute``: returns; ``none``: no augmentation.
    Raises UserError for values that the mode cannot mean.
    """

    mode: Literal["quantile", "score", "absolute", "none"] = "quantile"
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in (*_DEFAULTS, "absolute"):
            raise UserError(f"expected thresholds quantile, score, absolute or none, found {self.mode!r}")
        if self.mode == "absolute" and not self.values:
            raise UserError("expected returns with absolute thresholds, found none; give some")
        if self.mode == "none" and self.values:
            raise UserError(f"expected no values with thresholds none, found {self.values}")
        if self.mode == "quantile" and not all(0 <= q <= 1 for q in self.values or ()):
            raise UserError(f"expected quantiles in [0, 1], found {self.values}")

    def returns(self, dataset: Dataset, counted: Bool) -> NDArray[np.float64]:
        """The thresholds as team returns; quantiles are taken over the ``counted`` episodes."""
        values = np.asarray(_DEFAULTS[self.mode] if self.values is None else self.values, np.float64)
        if self.mode == "quantile" and counted.any():
            return np.quantile(dataset.returns[counted].astype(np.float64), values)
        return scores.denormalize(dataset.env, values) if self.mode == "score" else values


def weights(dataset: Dataset, thresholds: Thresholds) -> Int64:
    """w [episodes] = 1 + number of thresholds that the episode's return reaches (Algorithm 1).

    An episode cut short (neither terminated nor of full length) keeps weight 1: its return says little.
    """
    counted = (dataset.lengths == dataset.spec.horizon) | dataset.array("terminated")
    reached = dataset.returns[:, None] >= thresholds.returns(dataset, counted)[None, :]
    return 1 + (reached & counted[:, None]).sum(axis=1, dtype=np.int64)


class Sampler:
    """Draws a Batch with M = seeds x N members; member m = seed * N + agent.

    Each seed's generator draws its own [N, B] transitions, so a seed sees the same data however many are
    stacked, and every agent has its own minibatch. The arrays are put on ``device`` once.
    """

    def __init__(
        self,
        dataset: Dataset,
        thresholds: Thresholds,
        batch_size: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
    ):
        spec = dataset.spec
        self.batch_size, self.generators, self.device = batch_size, tuple(generators), torch.device(device)
        self.n_agents, self._episode_weights = spec.n_agents, weights(dataset, thresholds)
        virtual = self._episode_weights * dataset.lengths
        self._dataset, self._total = dataset, int(virtual.sum())
        self._ends = self._put(np.cumsum(virtual))
        self._starts = self._put(np.cumsum(virtual) - virtual)
        self._offsets, self._lengths = self._put(dataset.offsets[:-1]), self._put(dataset.lengths)
        # One row per (step, agent): a gather of rows is the fastest way to a minibatch.
        self._obs = self._put(dataset.array("observations")).reshape(-1, spec.obs_dim)
        self._actions = self._put(dataset.array("actions")).reshape(-1, spec.act_dim)
        self._rewards = self._put(dataset.array("rewards")).reshape(-1)
        ends = np.zeros(len(dataset), np.float32)
        ends[dataset.offsets[1:] - 1] = dataset.array("terminated")
        self._terminated = self._put(ends)
        self._agent = torch.arange(self.n_agents, device=self.device).repeat(len(self.generators))[:, None]

    def _put(self, array: NDArray[Any] | Float32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def indices(self) -> tuple[Tensor, Tensor]:
        """(step, episode), both [M, B]: step is the flat index of the transition.

        u is uniform over the sum of w_i L_i virtual transitions, of which episode i owns w_i L_i in a row;
        with all weights 1, u is the step itself, so thresholds that nothing reaches change no draw.
        """
        shape = (self.n_agents, self.batch_size)
        draws = [torch.randint(self._total, shape, generator=g, device=g.device) for g in self.generators]
        u = torch.cat(draws).to(self.device)
        episode = torch.searchsorted(self._ends, u, right=True)
        step = self._offsets[episode] + (u - self._starts[episode]) % self._lengths[episode]
        return step, episode

    def sample(self) -> Batch:
        """The next minibatch; fields [M, B, ...]."""
        step, episode = self.indices()
        row = ((step + episode) * self.n_agents + self._agent).reshape(-1)  # T+1 rows per episode
        flat = (step * self.n_agents + self._agent).reshape(-1)
        lead = step.shape
        return Batch(
            obs=self._obs.index_select(0, row).view(*lead, -1),
            actions=self._actions.index_select(0, flat).view(*lead, -1),
            rewards=self._rewards.index_select(0, flat).view(lead),
            next_obs=self._obs.index_select(0, row + self.n_agents).view(*lead, -1),
            terminated=self._terminated.index_select(0, step.reshape(-1)).view(lead),
        )

    @property
    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2 over transitions: as many as uniform draws would need for the same variance."""
        w, length = self._episode_weights.astype(np.float64), self._dataset.lengths
        return float((w * length).sum() ** 2 / (w * w * length).sum())

    @property
    def top_decile_share(self) -> float:
        """Probability that a draw comes from the tenth of the episodes with the highest returns."""
        best = np.argsort(-self._dataset.returns, kind="stable")[: max(1, self._dataset.n_episodes // 10)]
        virtual = self._episode_weights * self._dataset.lengths
        return float(virtual[best].sum() / self._total)
