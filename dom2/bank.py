"""States of the data with actions that a behaviour model would take there, drawn once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dom2data.windows import Windows


class Bank(nn.Module):
    """W windows of H steps of each member, the behaviour model's K actions there, and returns R.

    Kept with the weights, so that a run continues with the same bank.
    """

    obs: Tensor  # [M, W, H, O]
    actions: Tensor  # [M, W, H, A]
    rewards: Tensor  # [M, W, H]
    taken: Tensor  # [M, W, H] float, 0 past the end of an episode and where no window has come yet
    monte_carlo: Tensor  # [M, W, H], G
    candidates: Tensor  # [M, W, H, K, A]
    returns: Tensor  # [M, W, H], R
    order: Tensor  # [M, W x H], the steps taken first
    count: Tensor  # [M, 1], how many these are
    centre: Tensor  # [M, 1], mean of R
    spread: Tensor  # [M, 1], its standard deviation
    iteration: Tensor  # [M, 1], 0 before the critics

    def __init__(
        self,
        members: int,
        obs_dim: int,
        act_dim: int,
        windows: int,
        horizon: int,
        n_actions: int,
        device: torch.device,
    ):
        super().__init__()
        lead = (members, windows, horizon)
        scalars = dict.fromkeys(("rewards", "taken", "monte_carlo", "returns"), ())
        rest = {"obs": (obs_dim,), "actions": (act_dim,), "candidates": (n_actions, act_dim)}
        for name, shape in (scalars | rest).items():
            self.register_buffer(name, torch.zeros(*lead, *shape, device=device))
        for name, size in (("order", windows * horizon), ("count", 1), ("iteration", 1)):
            self.register_buffer(name, torch.zeros(members, size, dtype=torch.long, device=device))
        self.register_buffer("centre", torch.zeros(members, 1, device=device))
        self.register_buffer("spread", torch.ones(members, 1, device=device))

    def remember(self, windows: Windows, update: int, gamma: float) -> None:
        """Put windows in the place of the oldest."""
        size, room = windows.obs.shape[1], self.obs.shape[1]
        kept = min(size, room)
        at = (update * size + torch.arange(kept, device=self.obs.device)) % room
        n = windows.obs.shape[3]
        for name in ("obs", "actions", "rewards"):
            getattr(self, name)[:, at] = agents(getattr(windows, name), 3)[:, :kept]
        self.taken[:, at] = windows.taken[:, :kept].repeat_interleave(n, dim=0)
        to_go = agents(windows.returns, 2)[:, :kept]
        for h in range(self.obs.shape[2]):
            self.monte_carlo[:, at, h] = to_go
            to_go = (to_go - self.rewards[:, at, h]) / gamma  # G_{t+1} from G_t = r_t + gamma G_{t+1}

    def arrange(self) -> None:
        """Begin with R = G, and know which steps there are."""
        self.returns.copy_(self.monte_carlo)
        taken = self.taken.flatten(1)
        self.order.copy_(taken.argsort(dim=1, descending=True, stable=True))
        self.count.copy_(taken.sum(dim=1, keepdim=True).long())

    def normalise(self) -> None:
        """Centre and spread of R over the steps taken, the spread no less than 0.1."""
        taken, returns, count = self.taken.flatten(1), self.returns.flatten(1), self.count
        self.centre.copy_((returns * taken).sum(dim=1, keepdim=True) / count)
        squares = ((returns - self.centre).square() * taken).sum(dim=1, keepdim=True)
        self.spread.copy_((squares / count).sqrt().clamp_min(0.1))


def agents(values: Tensor, axis: int) -> Tensor:
    """Agents, at ``axis`` of a field of Windows [S, B, ...], join the seeds: [S x N, B, ...]."""
    return values.movedim(axis, 1).flatten(0, 1)
