"""Minibatches of joint trajectory windows, drawn with the weights of the transition sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dom2data import tables
from dom2data.dataset import Dataset
from dom2data.sampler import Thresholds, weights
from dom2data.tables import Tables


@dataclass(frozen=True)
class Windows:
    """Windows of H steps of all N agents, B for each of S seeds.

    A window that extends past the end of its episode is padded with the final observation, zero actions and
    rewards, and ``taken`` 0. So observation h is not padding iff h = 0 or ``taken[h - 1]`` is 1.
    """

    obs: Tensor  # [S, B, H, N, O]
    actions: Tensor  # [S, B, H, N, A]
    rewards: Tensor  # [S, B, H, N]
    terminated: Tensor  # [S, B, H] float, 1 where the step ended the episode for good
    taken: Tensor  # [S, B, H] float, 1 where the step lies within the episode
    returns: Tensor  # [S, B, N] discounted return from the window's first step to the episode's end
    before: Tensor  # [S, B] integer, number of the episode's steps before the window


class WindowSampler:
    """Draws Windows that may start at any step; each seed's generator draws its own [B]."""

    def __init__(
        self,
        dataset: Dataset,
        thresholds: Thresholds,
        batch_size: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str,
        horizon: int,
        gamma: float,
        source: Tables | None = None,
    ):
        self.batch_size, self.generators, self.device = batch_size, tuple(generators), torch.device(device)
        source = tables.in_memory(dataset, self.device) if source is None else source
        self._source, self._n_agents = source, dataset.spec.n_agents
        self._total = source.weigh(weights(dataset, thresholds), batch_size)
        self._obs, self._moves = (
            rows.view(-1, dataset.spec.n_agents, rows.shape[-1]) for rows in (source.obs, source.moves)
        )
        self._returns, at = source.to_go(gamma), source.obs.device
        self._bounds = torch.from_numpy(dataset.offsets).to(at)
        self._terminated = torch.from_numpy(dataset.array("terminated").astype(np.float32)).to(at)
        self._within = torch.arange(horizon, device=at)

    def sample(self) -> Windows:
        """Return the next minibatch."""
        shape, at = (self.batch_size,), self._obs.device
        draws = [torch.randint(self._total, shape, generator=g, device=g.device) for g in self.generators]
        found = self._source.find(torch.cat(draws).to(at))
        lead = (len(draws), self.batch_size)
        first, row = (index.long().view(lead) // self._n_agents for index in found)  # [S, B]
        episode = row - first  # T+1 rows per episode
        end = self._bounds[episode + 1].unsqueeze(-1)
        wanted = first.unsqueeze(-1) + self._within  # [S, B, H]
        step, taken = wanted.clamp_max(end - 1), (wanted < end).float()
        moves = self._moves[step] * taken[..., None, None]
        windows = Windows(
            obs=self._obs[wanted.clamp_max(end) + episode.unsqueeze(-1)],
            actions=moves[..., :-2].contiguous(),
            rewards=moves[..., -2].contiguous(),
            terminated=self._terminated[episode].unsqueeze(-1) * (wanted == end - 1),
            taken=taken,
            returns=self._returns[first],
            before=first - self._bounds[episode],
        )
        return Windows(**{name: value.to(self.device) for name, value in vars(windows).items()})

    def state(self) -> list[Tensor]:
        """Return the generators' states, for ``resume``."""
        return [g.get_state() for g in self.generators]

    def resume(self, state: list[Tensor], minibatches: int) -> None:
        """Continue with the draws that follow ``state``; ``minibatches`` is not needed here."""
        for generator, value in zip(self.generators, state, strict=True):
            generator.set_state(value)
