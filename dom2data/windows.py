"""Minibatches of stretches of joint trajectories, drawn with the weights of the plain sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dom2data.dataset import Dataset
from dom2data.sampler import Thresholds, virtual_rows, weights


@dataclass(frozen=True)
class Windows:
    """H steps of all N agents, for each of S seeds.

    A window that reaches past the end of its episode repeats the final observation, with actions and rewards
    of zero and ``taken`` 0. So observation h was seen iff h = 0 or ``taken[h - 1]`` is 1.
    """

    obs: Tensor  # [S, B, H, N, O]
    actions: Tensor  # [S, B, H, N, A]
    rewards: Tensor  # [S, B, H, N]
    terminated: Tensor  # [S, B, H] float, 1 where the step ended the episode for good
    taken: Tensor  # [S, B, H] float, 1 where the step lies within the episode
    returns: Tensor  # [S, B, N] discounted rewards from the window's first step to the episode's last


def returns_to_go(dataset: Dataset, gamma: float) -> NDArray[np.float32]:
    """G_t = r_t + gamma G_{t+1} within each episode, 0 after its last step; [steps, N]."""
    rewards, lengths = dataset.array("rewards"), dataset.lengths
    result = rewards.astype(np.float64)
    for back in range(1, int(lengths.max())):
        step = dataset.offsets[1:][lengths > back] - 1 - back
        result[step] += gamma * result[step + 1]
    return result.astype(np.float32)


class WindowSampler:
    """Draws Windows that begin at any step; each seed's generator draws its own [B]."""

    def __init__(
        self,
        dataset: Dataset,
        thresholds: Thresholds,
        batch_size: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str,
        horizon: int,
        gamma: float,
    ):
        self.batch_size, self.generators, self.device = batch_size, tuple(generators), torch.device(device)
        self._steps, self._rows = self._put(virtual_rows(dataset, weights(dataset, thresholds)))
        self._end = self._put(dataset.offsets[1:])
        names = ("observations", "actions", "rewards")
        self._obs, self._actions, self._rewards = (self._put(dataset.array(name)) for name in names)
        self._terminated = self._put(dataset.array("terminated").astype(np.float32))
        self._returns = self._put(returns_to_go(dataset, gamma))
        self._within = torch.arange(horizon, device=self.device)

    def _put(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def sample(self) -> Windows:
        """The next minibatch."""
        total, shape = len(self._steps), (self.batch_size,)
        draws = [torch.randint(total, shape, generator=g, device=g.device) for g in self.generators]
        drawn = torch.stack(draws).to(self.device)  # [S, B]
        first, row = self._steps[drawn].long(), self._rows[drawn].long()
        episode = row - first  # T+1 rows per episode
        end = self._end[episode].unsqueeze(-1)
        wanted = first.unsqueeze(-1) + self._within  # [S, B, H]
        step, taken = wanted.clamp_max(end - 1), (wanted < end).float()
        per_agent = taken.unsqueeze(-1)
        return Windows(
            obs=self._obs[wanted.clamp_max(end) + episode.unsqueeze(-1)],
            actions=self._actions[step] * per_agent.unsqueeze(-1),
            rewards=self._rewards[step] * per_agent,
            terminated=self._terminated[episode].unsqueeze(-1) * (wanted == end - 1),
            taken=taken,
            returns=self._returns[first],
        )
