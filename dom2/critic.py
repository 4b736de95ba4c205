"""The critic loss, Equation (1) of DOM2, term by term as pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def td_target(rewards: Tensor, terminated: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """Clipped double Q: y = r + gamma (1 - terminated) min_k Q_k(o', a'); next_q [M, 2, B] -> y [M, B]."""
    return rewards + gamma * (1.0 - terminated) * next_q.amin(dim=1)


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each critic to the common target: q [M, 2, B], y [M, B] -> [M, 2]."""
    return (q - target.unsqueeze(1)).square().mean(dim=-1)


def conservative_penalty(q_others: Tensor, q_data: Tensor, log_density: float) -> Tensor:
    """Importance-weighted log-mean-exp of Q over other actions, minus Q of the data's action.

    mean_B[ logsumexp_K(Q(o, a~) - log p(a~)) - log K - Q(o, a) ]: the first two terms estimate the log of the
    integral of exp Q over the actions (Kumar et al. 2020). q_others [M, 2, K, B], q_data [M, 2, B] -> [M, 2].
    ``log_density`` is log p(a~) if all actions share it, as uniform ones do. Otherwise subtract each action's
    own from q_others beforehand and pass 0.
    """
    k = q_others.shape[2]
    soft_maximum = torch.logsumexp(q_others, dim=2) - log_density - math.log(k)
    return (soft_maximum - q_data).mean(dim=-1)
