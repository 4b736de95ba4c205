import math

import pytest
import torch

from dom2.schedule import VP, time_grid

T = torch.linspace(1e-3, 1.0, 57, dtype=torch.float64)


@pytest.mark.parametrize("beta_max", [10.0, 20.0])
def test_vp_is_variance_preserving_and_inverts(beta_max: float) -> None:
    vp = VP(beta_max=beta_max)
    torch.testing.assert_close(vp.alpha(T) ** 2 + vp.sigma(T) ** 2, torch.ones_like(T))
    torch.testing.assert_close(vp.inverse_log_snr(vp.log_snr(T)), T)


def test_end_values() -> None:
    """alpha and sigma of the VP schedule at both ends (Song et al. 2021; Diffusion-QL)."""
    ends = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    assert VP().alpha(ends).tolist() == pytest.approx([0.99995, 0.0801], abs=5e-5)
    assert VP().sigma(ends).tolist() == pytest.approx([0.0102, 0.9968], abs=5e-5)
    assert VP(beta_max=20.0).alpha(ends)[1].item() == pytest.approx(0.00657, abs=5e-6)


def test_equals_the_discrete_betas_of_diffusion_ql() -> None:
    """prod_{t<=k} exp(-b_min / n - (b_max - b_min)(2t - 1) / (2 n^2)) = alpha(k / n)^2."""
    n = 5
    steps = [math.exp(-0.1 / n - 0.5 * 9.9 * (2 * t - 1) / n**2) for t in range(1, n + 1)]
    expected = torch.tensor(steps, dtype=torch.float64).cumprod(0).sqrt()
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    torch.testing.assert_close(VP().alpha(times), expected)


@pytest.mark.parametrize("kind", ["uniform", "quadratic", "logsnr"])
def test_grids_ascend_between_their_ends(kind: str) -> None:
    grid = time_grid(kind, 5)
    assert grid.shape == (6,)
    assert (grid.diff() > 0).all()
    assert grid[[0, -1]].tolist() == pytest.approx([1e-3, 1.0])


def test_grids_are_equally_spaced_in_their_own_variable() -> None:
    for kind, variable in {"uniform": lambda t: t, "quadratic": torch.sqrt, "logsnr": VP().log_snr}.items():
        steps = variable(time_grid(kind, 7)).diff()
        torch.testing.assert_close(steps, steps[:1].expand(7))


@pytest.mark.parametrize("bad", [("cosine", 5, 1e-3), ("uniform", 0, 1e-3), ("uniform", 5, 0.0)])
def test_bad_grids_are_refused(bad: tuple) -> None:
    with pytest.raises(ValueError, match="expected"):
        time_grid(*bad)


def test_a_chain_must_end_in_noise() -> None:
    with pytest.raises(ValueError, match="a tenth of the signal or less, found 1, which leaves 0"):
        VP(beta_max=1.0)
