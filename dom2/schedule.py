"""Noise schedules and the grid of diffusion times tau_0 < ... < tau_N shared by the loss and the sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

GridKind = Literal["uniform", "quadratic", "logsnr"]


@dataclass(frozen=True)
class VP:
    """Variance-preserving schedule with a linear beta(t) (Song et al. 2021).

    log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2, sigma^2 = 1 - alpha^2. With beta_max = 10
    its values at t = k / T are the discrete betas of Diffusion-QL (Wang et al. 2022).

    Raises ValueError if more than a tenth of the signal is left at t = 1, since chains start from pure noise.
    """

    beta_min: float = 0.1
    beta_max: float = 10.0

    def __post_init__(self) -> None:
        left = self.alpha(torch.ones(())).item()
        if not left <= 0.1:
            raise ValueError(
                f"expected a beta_max that leaves a tenth of the signal or less, found {self.beta_max:g}, "
                f"which leaves {left:.2f}"
            )

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient at diffusion time t in [0, 1]."""
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient, by expm1 because 1 - alpha^2 loses its digits near t = 0."""
        return torch.sqrt(-torch.expm1(2.0 * self.log_alpha(t)))

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = log(alpha / sigma), decreasing in t."""
        return self.log_alpha(t) - torch.log(self.sigma(t))

    def inverse_log_snr(self, lam: Tensor) -> Tensor:
        """The t with log_snr(t) = lam (Lu et al. 2022, appendix D.4)."""
        delta = self.beta_max - self.beta_min
        q = 2.0 * delta * torch.nn.functional.softplus(-2.0 * lam)
        return q / ((torch.sqrt(self.beta_min**2 + q) + self.beta_min) * delta)


def time_grid(kind: GridKind, n: int, t0: float = 1e-3, schedule: VP | None = None) -> Tensor:
    """Grid times [n+1], float64, ascending from t0 to 1.

    ``uniform`` is equally spaced in t, ``quadratic`` in sqrt(t), ``logsnr`` in log(alpha / sigma) of
    ``schedule``. Raises ValueError for an unknown kind, n < 1 or t0 outside (0, 1).
    """
    if kind not in get_args(GridKind):
        raise ValueError(f"expected a grid in {', '.join(get_args(GridKind))}, found {kind!r}")
    if n < 1 or not 0.0 < t0 < 1.0:
        raise ValueError(f"expected n >= 1 and 0 < t0 < 1, found n={n}, t0={t0}")
    u = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
    if kind == "uniform":
        return t0 + (1.0 - t0) * u
    if kind == "quadratic":
        return (math.sqrt(t0) + (1.0 - math.sqrt(t0)) * u) ** 2
    schedule = schedule or VP()
    ends = schedule.log_snr(torch.tensor([t0, 1.0], dtype=torch.float64))
    return schedule.inverse_log_snr(ends[0] + (ends[1] - ends[0]) * u)
