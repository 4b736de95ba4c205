"""What the critics regress on: Equation (1) of DOM2, term by term, as pure functions."""

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
    """log-mean-exp of Q over other actions, importance weighted, minus Q of the data's action.

    mean_B[ logsumexp_K(Q(o, a~) - log p(a~)) - log K - Q(o, a) ]: an estimate of log of the integral of
    exp Q over the actions (Kumar et al. 2020). q_others [M, 2, K, B], q_data [M, 2, B] -> [M, 2].
    ``log_density`` is one for all, as of uniform actions; where they differ, q_others are without theirs
    already, and it is 0.
    """
    k = q_others.shape[2]
    soft_maximum = torch.logsumexp(q_others, dim=2) - log_density - math.log(k)
    return (soft_maximum - q_data).mean(dim=-1)
