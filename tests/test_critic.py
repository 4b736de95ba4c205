import math

import pytest
import torch

from dom2.critic import conservative_penalty, td_loss, td_target


def test_target_takes_the_smaller_critic_and_stops_at_termination() -> None:
    next_q = torch.tensor([[[2.0, 8.0], [4.0, 6.0]]])
    y = td_target(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]), next_q, gamma=0.5)
    assert y.tolist() == [[2.0, 1.0]]


def test_both_critics_regress_on_the_same_target() -> None:
    q = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])
    assert td_loss(q, torch.tensor([[2.0, 2.0]])).tolist() == [[1.0, 0.0]]


def test_penalty_of_a_constant_is_the_log_volume() -> None:
    """log integral over [-1, 1]^2 of exp(c) - c = log 4, whatever c and K are."""
    for k in (1, 10):
        penalty = conservative_penalty(
            torch.full((1, 2, k, 5), 3.0), torch.full((1, 2, 5), 3.0), -2 * math.log(2)
        )
        assert penalty.flatten().tolist() == pytest.approx([math.log(4.0)] * 2, abs=1e-5)


def test_penalty_estimates_the_log_integral() -> None:
    """Q(a) = 2a on [-1, 1]: log of the integral of exp Q is log sinh 2."""
    actions = torch.rand(1, 1, 200_000, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    penalty = conservative_penalty(2 * actions, torch.zeros(1, 1, 1), -math.log(2))
    assert penalty.item() == pytest.approx(math.log(math.sinh(2.0)), abs=0.01)


def test_penalty_lowers_random_actions_and_raises_the_data() -> None:
    q_uniform, q_data = torch.randn(1, 2, 10, 8, requires_grad=True), torch.randn(1, 2, 8, requires_grad=True)
    conservative_penalty(q_uniform, q_data, 0.0).sum().backward()
    assert (q_uniform.grad > 0).all()
    assert (q_data.grad < 0).all()
