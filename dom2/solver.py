"""DPM-Solver: from noise to a sample in a few evaluations of the noise network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dom2.schedule import VP

ENOUGH_STEPS = 15
"""with at least this many steps, a second-order sampler extrapolates in the last one, too"""

NoiseFn = Callable[[Tensor, int], Tensor]


def sample(
    eps_fn: NoiseFn, x: Tensor, schedule: VP, grid: Tensor, clip: float | None = None, order: int = 1
) -> Tensor:
    """Denoise x ~ N(0, I) from the last grid time to the first; same shape as x, differentiable throughout.

    Order 1 is DPM-Solver-1 (Lu et al. 2022, Eq. 3.7), which is DDIM with eta = 0 (Song et al. 2021):
    x0 = (x - sigma_i eps) / alpha_i; x <- alpha_{i-1} x0 + sigma_{i-1} eps. Equation (4) of DOM2 does not
    shift the indices in the coefficient of eps, so it adds noise instead of removing it, and diverges.
    Order 2 is the multistep DPM-Solver++(2M). With fewer than 15 steps, the last one is of first order, as in
    Lu et al.'s code: extrapolation to time 0 would push bounded data outward. ``eps_fn(x, i)`` predicts
    the noise in x at ``grid[i]``; ``clip`` limits x0 to [-clip, clip]. Raises ValueError for another order.
    """
    if order == 1:
        return _first_order(eps_fn, x, schedule, grid, clip)
    if order == 2:
        return _second_order(eps_fn, x, schedule, grid, clip)
    raise ValueError(f"expected order 1 or 2, found {order}")


def _first_order(eps_fn: NoiseFn, x: Tensor, schedule: VP, grid: Tensor, clip: float | None) -> Tensor:
    alpha, sigma = schedule.alpha(grid), schedule.sigma(grid)
    for i in range(len(grid) - 1, 0, -1):
        eps = eps_fn(x, i)
        x0 = (x - sigma[i] * eps) / alpha[i]
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
            eps = (x - alpha[i] * x0) / sigma[i]  # the noise that agrees with the clipped sample
        x = alpha[i - 1] * x0 + sigma[i - 1] * eps
    return x


def _second_order(eps_fn: NoiseFn, x: Tensor, schedule: VP, grid: Tensor, clip: float | None) -> Tensor:
    alpha, sigma, lam = schedule.alpha(grid), schedule.sigma(grid), schedule.log_snr(grid)
    previous: Tensor | None = None
    few = len(grid) - 1 < ENOUGH_STEPS
    for i in range(len(grid) - 1, 0, -1):
        x0 = (x - sigma[i] * eps_fn(x, i)) / alpha[i]
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        h, estimate = lam[i - 1] - lam[i], x0
        if previous is not None and (i > 1 or not few):
            # linear extrapolation of x0 in lambda, from the last two estimates
            half_inverse_ratio = 0.5 * h / (lam[i] - lam[i + 1])
            estimate = x0 + half_inverse_ratio * (x0 - previous)
        x = (sigma[i - 1] / sigma[i]) * x - alpha[i - 1] * (-h).expm1() * estimate
        previous = x0
    return x


def ancestral(
    eps_fn: NoiseFn, noise: Tensor, schedule: VP, grid: Tensor, clip: float | None = None
) -> Tensor:
    """Denoise with DDPM's steps (Ho et al. 2020): noise [N, ...], the start and N - 1 draws, -> [...].

    x <- mean of q(x_{i-1} | x_i, x0) plus its spread times a draw; the last step adds none, and ends at x0 on
    a grid that begins at time 0. In few steps it keeps even less of the data's spread than ``sample`` does.
    """
    alpha, sigma, x = schedule.alpha(grid), schedule.sigma(grid), noise[0]
    for i in range(len(grid) - 1, 0, -1):
        x0 = (x - sigma[i] * eps_fn(x, i)) / alpha[i]
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        ratio = alpha[i] / alpha[i - 1]
        kept, new = ratio * (sigma[i - 1] / sigma[i]) ** 2, (1.0 - ratio**2) / sigma[i] ** 2
        x = alpha[i - 1] * new * x0 + kept * x
        if i > 1:
            x = x + sigma[i - 1] * (1.0 - ratio**2).sqrt() / sigma[i] * noise[len(grid) - i]
    return x
