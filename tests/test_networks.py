import pytest
import torch
from tiny import generators

from dom2.networks import MLPNoise, ResidualNoise, TwinCritics, narrow
from dom2.schedule import time_grid
from dom2_policies.stacked import StackedLinear

GRID = time_grid("quadratic", 5)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_wide_residual_network_has_the_size_of_the_sfbc_score_network() -> None:
    """1,626,050 parameters for observations of 16 and actions of 2 (tag)."""
    assert parameters(ResidualNoise(1, 16, 2, GRID, generators(0), (512, 256, 128), 128)) == 1_626_050


@pytest.mark.parametrize("kind", [ResidualNoise, MLPNoise])
def test_member_of_a_stack_equals_it_alone(kind: type) -> None:
    stack = kind(3, 5, 2, GRID, generators(0, 1, 2), (16, 8, 8))
    obs, x = torch.randn(3, 7, 5), torch.randn(3, 7, 2)
    index = torch.randint(6, (3, 7))
    for seed in range(3):
        alone = kind(1, 5, 2, GRID, generators(seed), (16, 8, 8))
        one = slice(seed, seed + 1)
        for i, own in ((3, 3), (index, index[one])):
            torch.testing.assert_close(
                stack.given(obs)(x, i)[one], alone.given(obs[one])(x[one], own), rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("kind", [ResidualNoise, MLPNoise])
def test_one_index_equals_a_tensor_full_of_it(kind: type) -> None:
    eps_fn = kind(2, 5, 2, GRID, generators(0), (16, 8, 8)).given(torch.randn(2, 7, 5))
    x = torch.randn(2, 7, 2)
    torch.testing.assert_close(eps_fn(x, 4), eps_fn(x, torch.full((2, 7), 4)))
    assert not torch.allclose(eps_fn(x, 4), eps_fn(x, 1))


def test_critics_share_the_observation_and_nothing_else() -> None:
    """Q of K actions at once equals Q of each on the concatenation, critic by critic."""
    critics = TwinCritics(2, 5, 2, generators(0, 1), (16, 16))
    obs, actions = torch.randn(2, 9, 5), torch.randn(2, 4, 9, 2)
    q = critics(obs, actions)
    assert q.shape == (2, 2, 4, 9)
    for k in range(4):
        joint = torch.cat([obs, actions[:, k]], dim=-1).repeat_interleave(2, dim=0)
        torch.testing.assert_close(q[:, :, k], critics.mlp(joint).view(2, 2, 9), rtol=0, atol=1e-6)
    assert not torch.allclose(q[:, 0], q[:, 1])


@pytest.mark.parametrize("out", [1, 2, 3])
def test_narrow_is_the_layer_and_its_gradients(out: int) -> None:
    """Value and gradients of the fast product against autograd through the plain one."""
    g = torch.Generator().manual_seed(0)
    layer = StackedLinear(4, 16, out, [g]).double()
    x = torch.randn(4, 9, 16, generator=g, dtype=torch.float64, requires_grad=True)
    up = torch.randn(4, 9, out, generator=g, dtype=torch.float64)
    inputs = (x, layer.weight, layer.bias)
    fast, plain = narrow(layer, x), layer(x)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(
        torch.autograd.grad(fast, inputs, up), torch.autograd.grad(plain, inputs, up), strict=True
    ):
        torch.testing.assert_close(a, b)
