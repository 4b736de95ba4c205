"""The solver against exact solutions: for N(m, s^2) the noise and the end of the flow are known."""

import itertools
from collections.abc import Callable

import pytest
import torch

from dom2.schedule import VP, time_grid
from dom2.solver import sample

F64 = torch.float64


def exact_noise(vp: VP, grid: torch.Tensor, mean: torch.Tensor | float, std: float) -> Callable:
    alpha, sigma = vp.alpha(grid), vp.sigma(grid)
    return lambda x, i: sigma[i] * (x - alpha[i] * mean) / (alpha[i] ** 2 * std**2 + sigma[i] ** 2)


def exact_end(vp: VP, grid: torch.Tensor, mean: float, std: float, x: float) -> float:
    alpha = vp.alpha(grid)
    deviation = (alpha**2 * std**2 + vp.sigma(grid) ** 2).sqrt()
    return (alpha[0] * mean + deviation[0] / deviation[-1] * (x - alpha[-1] * mean)).item()


def solve(n: int, std: float, beta_max: float = 10.0, order: int = 1, kind: str = "uniform") -> float:
    vp = VP(beta_max=beta_max)
    grid = time_grid(kind, n, schedule=vp)
    x = torch.tensor([1.3], dtype=F64)
    return sample(exact_noise(vp, grid, 0.5, std), x, vp, grid, order=order).item()


CASES = {
    10.0: (0.879273, {1: 0.522046, 5: 0.696620, 10: 0.775487, 20: 0.824102, 40: 0.850652, 80: 0.864642}),
    20.0: (0.889211, {5: 0.655738, 10: 0.747449, 20: 0.812613, 40: 0.849205, 80: 0.868692}),
}


@pytest.mark.parametrize("beta_max", CASES)
def test_gaussian_data(beta_max: float) -> None:
    exact, values = CASES[beta_max]
    vp = VP(beta_max=beta_max)
    assert exact_end(vp, time_grid("uniform", 1), 0.5, 0.3, 1.3) == pytest.approx(exact, abs=1e-6)
    for n, value in values.items():
        assert solve(n, 0.3, beta_max) == pytest.approx(value, abs=1e-6)


def test_the_error_halves_when_the_steps_double() -> None:
    errors = [abs(solve(n, 0.3) - CASES[10.0][0]) for n in (20, 40, 80, 160)]
    assert all(1.7 < a / b < 2.2 for a, b in itertools.pairwise(errors))
    assert errors[2] < 0.02


def test_second_order_is_of_second_order() -> None:
    exact = CASES[10.0][0]
    errors = [abs(solve(n, 0.3, order=2, kind="logsnr") - exact) for n in (20, 40, 80)]
    assert all(a / b > 3.0 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize(("beta_max", "exact"), [(10.0, 0.512923), (20.0, 0.513569)])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_point_mass_takes_one_step_of_any_size(beta_max: float, exact: float, n: int) -> None:
    vp = VP(beta_max=beta_max)
    value = solve(n, 0.0, beta_max)
    assert value == pytest.approx(exact, abs=1e-6)
    assert value == pytest.approx(exact_end(vp, time_grid("uniform", n), 0.5, 0.0, 1.3), abs=1e-12)


def test_one_step_equals_dpm_solver_as_lu_et_al_print_it() -> None:
    """Eq. 3.7: x' = (alpha'/alpha) x - sigma' (e^h - 1) eps, h = lambda' - lambda."""
    vp, grid = VP(), torch.tensor([0.3, 0.7], dtype=F64)
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 100, dtype=F64, generator=generator)
    (a1, a2), (s1, _), lam = vp.alpha(grid), vp.sigma(grid), vp.log_snr(grid)
    expected = a1 / a2 * x - s1 * torch.expm1(lam[0] - lam[1]) * eps
    torch.testing.assert_close(sample(lambda x, i: eps, x, vp, grid), expected, rtol=0, atol=1e-12)


def test_conditional_means_are_kept() -> None:
    """A linear-Gaussian map o -> a: the mean of the samples is m(o) within three standard errors."""
    vp, grid = VP(beta_max=20.0), time_grid("quadratic", 20, schedule=VP(beta_max=20.0))
    means = torch.tensor([[-0.5], [0.0], [0.8]], dtype=F64)
    x = torch.randn(3, 20_000, dtype=F64, generator=torch.Generator().manual_seed(0))
    out = sample(exact_noise(vp, grid, means, 0.2), x, vp, grid)
    error = out.mean(dim=1) - vp.alpha(grid)[0] * means[:, 0]
    # alpha(1) = 0.0066: the chain starts that much of the mean away from the marginal at t = 1
    assert (error.abs() < 3 * out.std(dim=1) / 20_000**0.5 + 0.0066 * means[:, 0].abs()).all()


RATIOS = [  # (beta_max, std, N, kind, order, sampled std / true std)
    (10.0, 0.05, 5, "uniform", 1, 0.30),
    (10.0, 0.05, 5, "quadratic", 1, 0.51),
    (10.0, 0.20, 5, "uniform", 1, 0.41),
    (10.0, 0.20, 5, "quadratic", 1, 0.71),
    (10.0, 0.20, 5, "logsnr", 1, 0.70),
    (10.0, 0.20, 5, "logsnr", 2, 0.90),
    (20.0, 0.20, 8, "logsnr", 1, 0.74),
    (20.0, 0.20, 8, "logsnr", 2, 0.95),
    (20.0, 0.20, 8, "quadratic", 2, 0.90),
    (20.0, 0.20, 20, "logsnr", 2, 1.01),
    (10.0, 0.50, 10, "quadratic", 1, 0.88),
    (20.0, 0.20, 10, "logsnr", 1, 0.79),
]


@pytest.mark.parametrize(("beta_max", "std", "n", "kind", "order", "ratio"), RATIOS)
def test_spread_kept_by_few_steps(
    beta_max: float, std: float, n: int, kind: str, order: int, ratio: float
) -> None:
    vp = VP(beta_max=beta_max)
    grid = time_grid(kind, n, schedule=vp)
    true = (vp.alpha(grid) ** 2 * std**2 + vp.sigma(grid) ** 2).sqrt()
    out = sample(exact_noise(vp, grid, 0.0, std), true[-1:], vp, grid, order=order)
    assert (out / true[0]).item() == pytest.approx(ratio, abs=0.0055)


@pytest.mark.parametrize(("n", "share"), [(8, 0.005), (10, 0.010), (20, 0.031)])
def test_second_order_does_not_push_uniform_data_to_their_bounds(n: int, share: float) -> None:
    """Of uniform actions 2 % lie beyond 0.98; with all steps of second order it would be 12 % for N = 8."""
    vp = VP(beta_max=20.0)
    grid = time_grid("quadratic", n, schedule=vp)
    alpha, sigma = vp.alpha(grid), vp.sigma(grid)
    actions = torch.linspace(-1.0, 1.0, 401, dtype=F64)

    def eps(x: torch.Tensor, i: int) -> torch.Tensor:
        weights = (-0.5 * ((x[:, None] - alpha[i] * actions) / sigma[i]) ** 2).softmax(dim=1)
        return (x - alpha[i] * (weights @ actions)) / sigma[i]

    x = torch.randn(4_000, dtype=F64, generator=torch.Generator().manual_seed(0))
    out = sample(eps, x, vp, grid, clip=1.0, order=2)
    assert (out.abs() > 0.98).double().mean().item() == pytest.approx(share, abs=0.01)
    assert out.std().item() == pytest.approx(3**-0.5, rel=0.05)


@pytest.mark.parametrize("order", [1, 2])
def test_clip_keeps_the_sample_in_range_and_leaves_an_inner_one_alone(order: int) -> None:
    """Predictions about 2, clipped to 1 at every step, are a point mass at 1, which is solved exactly."""
    vp, grid = VP(), time_grid("quadratic", 5)
    x = torch.tensor([-1.0, 0.2, 3.0], dtype=F64)
    wide = sample(exact_noise(vp, grid, 2.0, 0.1), x, vp, grid, clip=1.0, order=order)
    alpha, sigma = vp.alpha(grid), vp.sigma(grid)
    torch.testing.assert_close(wide, alpha[0] + sigma[0] / sigma[-1] * (x - alpha[-1]), rtol=0, atol=1e-9)
    inner = exact_noise(vp, grid, 0.1, 0.01)
    clipped, free = (sample(inner, x, vp, grid, clip=clip, order=order) for clip in (1.0, None))
    torch.testing.assert_close(clipped, free)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_flow_through_the_whole_chain(order: int) -> None:
    vp, grid = VP(), time_grid("quadratic", 4)
    weight = torch.tensor(0.3, dtype=F64, requires_grad=True)
    x = torch.randn(7, dtype=F64, generator=torch.Generator().manual_seed(0))

    def end(w: torch.Tensor) -> torch.Tensor:
        return sample(lambda a, i: w * a, x, vp, grid, order=order).sum()

    assert torch.autograd.gradcheck(end, (weight,))


def test_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="expected order 1 or 2"):
        sample(lambda x, i: x, torch.zeros(1), VP(), time_grid("uniform", 2), order=3)
