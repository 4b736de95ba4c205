"""States from the data, each with actions of a behaviour model that are drawn once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dom2data.windows import Windows

SHARE = 1 << 20  # weights are integers, because on a GPU sums of floats differ from run to run


class Bank(nn.Module):
    """W windows of H steps for each member, K actions of the behaviour model at each step, and returns R.

    It is saved with the weights, so a resumed run continues with the same bank.
    """

    obs: Tensor  # [M, W, H, O]
    actions: Tensor  # [M, W, H, A]
    rewards: Tensor  # [M, W, H]
    monte_carlo: Tensor  # [M, W, H], the Monte-Carlo returns G
    candidates: Tensor  # [M, W, H, K, A]
    returns: Tensor  # [M, W, H], R
    weight: Tensor  # [M, W, H], ``SHARE`` / number of windows of the data with this step; 0 past the end
    upto: Tensor  # [M, W x H], cumulative sums of ``weight``
    centre: Tensor  # [M, 1], mean of R
    spread: Tensor  # [M, 1], standard deviation of R
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
        scalars = dict.fromkeys(("rewards", "monte_carlo", "returns"), ())
        rest = {"obs": (obs_dim,), "actions": (act_dim,), "candidates": (n_actions, act_dim)}
        for name, shape in (scalars | rest).items():
            self.register_buffer(name, torch.zeros(*lead, *shape, device=device))
        for name, shape in {"weight": lead[1:], "upto": (windows * horizon,), "iteration": (1,)}.items():
            self.register_buffer(name, torch.zeros(members, *shape, dtype=torch.long, device=device))
        self.register_buffer("centre", torch.zeros(members, 1, device=device))
        self.register_buffer("spread", torch.ones(members, 1, device=device))

    @property
    def taken(self) -> Tensor:
        """True [M, W, H] except past the end of an episode and in slots that are still empty."""
        return self.weight > 0

    def remember(self, windows: Windows, update: int, gamma: float) -> None:
        """Replace the oldest windows by these."""
        size, room = windows.obs.shape[1], self.obs.shape[1]
        kept = min(size, room)
        at = (update * size + torch.arange(kept, device=self.obs.device)) % room
        n = windows.obs.shape[3]
        for name in ("obs", "actions", "rewards"):
            getattr(self, name)[:, at] = agents(getattr(windows, name), 3)[:, :kept]
        within = torch.arange(1, self.obs.shape[2] + 1, device=self.obs.device)
        # A window begins at every step, so an episode's first step is in one, its second in two, up to H.
        among = (windows.before[:, :kept, None] + within).clamp_max(len(within))
        weight = (windows.taken[:, :kept] * SHARE / among).round().long()
        self.weight[:, at] = weight.repeat_interleave(n, dim=0)
        to_go = agents(windows.returns, 2)[:, :kept]
        for h in range(self.obs.shape[2]):
            self.monte_carlo[:, at, h] = to_go
            to_go = (to_go - self.rewards[:, at, h]) / gamma  # G_{t+1} from G_t = r_t + gamma G_{t+1}

    def arrange(self) -> None:
        """Initialise R = G, and sum the steps' weights for ``find``."""
        self.returns.copy_(self.monte_carlo)
        self.upto.copy_(self.weight.flatten(1).cumsum(dim=1))

    def find(self, draws: Tensor) -> Tensor:
        """Turn uniform 62-bit draws [M, B] into indices of the bank's W x H steps, sampled by weight."""
        return torch.searchsorted(self.upto, draws % self.upto[:, -1:], right=True)

    def normalise(self) -> None:
        """Set the mean and the standard deviation (at least 0.1) of R as ``find`` draws it."""
        share, returns = self.weight.flatten(1) / self.upto[:, -1:], self.returns.flatten(1)
        self.centre.copy_((returns * share).sum(dim=1, keepdim=True))
        squares = ((returns - self.centre).square() * share).sum(dim=1, keepdim=True)
        self.spread.copy_(squares.sqrt().clamp_min(0.1))


def agents(values: Tensor, axis: int) -> Tensor:
    """Merge the agents, at ``axis`` of a field of Windows [S, B, ...], with the seeds: [S x N, B, ...]."""
    return values.movedim(axis, 1).flatten(0, 1)
