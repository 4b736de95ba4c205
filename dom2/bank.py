"""States of the data with actions that a behaviour model would take there, drawn once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dom2data.windows import Windows

SHARE = 1 << 20  # whole numbers, because on a GPU sums of others differ from run to run


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
    weight: Tensor  # [M, W, H], ``SHARE`` / the number of the data's windows with this step; 0 if not taken
    upto: Tensor  # [M, W x H], cumulative sums of these
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
        for name, shape in {"weight": lead[1:], "upto": (windows * horizon,), "iteration": (1,)}.items():
            self.register_buffer(name, torch.zeros(members, *shape, dtype=torch.long, device=device))
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
        within = torch.arange(1, self.obs.shape[2] + 1, device=self.obs.device)
        # Windows begin at every step, so the first of an episode is in one, the second in two, up to H.
        among = (windows.before[:, :kept, None] + within).clamp_max(len(within)).repeat_interleave(n, dim=0)
        self.weight[:, at] = (self.taken[:, at] * SHARE / among).round().long()
        to_go = agents(windows.returns, 2)[:, :kept]
        for h in range(self.obs.shape[2]):
            self.monte_carlo[:, at, h] = to_go
            to_go = (to_go - self.rewards[:, at, h]) / gamma  # G_{t+1} from G_t = r_t + gamma G_{t+1}

    def arrange(self) -> None:
        """Begin with R = G, and know what the steps weigh together."""
        self.returns.copy_(self.monte_carlo)
        self.upto.copy_(self.weight.flatten(1).cumsum(dim=1))

    def find(self, draws: Tensor) -> Tensor:
        """Steps, among the bank's W x H, for uniform draws of 62 bits [M, B], each as often as it weighs."""
        return torch.searchsorted(self.upto, draws % self.upto[:, -1:], right=True)

    def normalise(self) -> None:
        """Centre and spread of R as ``find`` draws it, the spread no less than 0.1."""
        share, returns = self.weight.flatten(1) / self.upto[:, -1:], self.returns.flatten(1)
        self.centre.copy_((returns * share).sum(dim=1, keepdim=True))
        squares = ((returns - self.centre).square() * share).sum(dim=1, keepdim=True)
        self.spread.copy_(squares.sqrt().clamp_min(0.1))


def agents(values: Tensor, axis: int) -> Tensor:
    """Agents, at ``axis`` of a field of Windows [S, B, ...], join the seeds: [S x N, B, ...]."""
    return values.movedim(axis, 1).flatten(0, 1)
