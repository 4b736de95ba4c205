import pytest
import torch
from tiny import generators

from dom2.networks import MLPNoise, ResidualNoise, TwinCritics, mish, narrow
from dom2.schedule import time_grid
from dom2_policies.stacked import OneByOne, StackedLinear

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


@pytest.mark.parametrize("activation", [torch.relu, mish])
def test_the_first_critic_alone_is_the_first_of_both(activation: object) -> None:
    critics = TwinCritics(4, 5, 2, generators(0, 1), (16, 16), activation)  # type: ignore[arg-type]
    obs, actions = torch.randn(4, 8, 5), torch.randn(4, 3, 8, 2, requires_grad=True)
    both, alone = critics(obs, actions)[:, 0], critics.first(obs, actions)
    assert torch.equal(both, alone)
    gradients = [torch.autograd.grad(q.sum(), [actions, *critics.parameters()]) for q in (both, alone)]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 256, 128, 256), (5, 7, 130, 128), (1, 64, 512, 512)])
def test_member_by_member_is_the_batched_product(shape: tuple[int, int, int, int], threads: int) -> None:
    members, rows, inner, out = shape
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(members, rows, inner, requires_grad=True)
        weight = torch.randn(members, inner, out, requires_grad=True)
        bias, cotangent = torch.randn(members, 1, out, requires_grad=True), torch.randn(members, rows, out)
        results = []
        for product in (torch.baddbmm, OneByOne.apply):
            y = product(bias, x, weight)
            results.append((y, *torch.autograd.grad(y, (bias, x, weight), cotangent)))
    finally:
        torch.set_num_threads(before)
    for batched, single in zip(*results, strict=True):
        assert threads == 2 or torch.equal(batched, single)
        torch.testing.assert_close(batched, single, rtol=1e-5, atol=1e-4)


def test_mish_is_pytorchs_with_its_gradient() -> None:
    x = torch.cat([torch.linspace(-95.0, 95.0, 40001), torch.tensor([0.0, -1e30, 1e30])]).requires_grad_()
    exact = x.detach().double().requires_grad_()
    expected = torch.nn.functional.mish(exact)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    found = mish(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=2e-6)
