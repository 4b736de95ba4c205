"""Gaussian policies for log-likelihood losses; a stack of tanh networks gives the means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dom2 import actor
from dom2.members import Members
from dom2data.spec import EnvSpec

LOG_STD = (-5.0, 2.0)  # the range of the logarithm of a standard deviation


class GaussianActor(nn.Module):
    """N(tanh network, sigma^2) with one sigma for each member and action dimension, initially 1.

    Policies act with the mean alone; the density is not truncated to the action range.
    """

    def __init__(self, members: Members, spec: EnvSpec, widths: Sequence[int]):
        super().__init__()
        self.mean = actor.tanh_actors(members, spec, widths)
        size = (members.n_seeds * spec.n_agents, 1, spec.act_dim)
        self.log_std = nn.Parameter(torch.zeros(size, device=members.device))

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """log pi(a | o) of obs [M, B, O] and actions [M, B, A] -> [M, B]."""
        std = self.log_std.clamp(*LOG_STD).exp()
        return Normal(self.mean(obs), std, validate_args=False).log_prob(actions).sum(dim=-1)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """An action for each observation from standard normal noise [M, B, A], clipped to [-1, 1]."""
        return (self.mean(obs) + self.log_std.clamp(*LOG_STD).exp() * noise).clamp(-1.0, 1.0)
