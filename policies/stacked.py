"""M independent networks as one batched matrix product (agents and seeds are independent members)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
ALL = slice(None)


class StackedLinear(nn.Module):
    """M linear layers: x [M, B, in] -> x W + b [M, B, out], one ``baddbmm``.

    Each generator initialises an equal share of the members, so the weights of one seed's members do not
    depend on how many seeds are stacked. Initial values are distributed as in ``nn.Linear``:
    U(-1/sqrt(in), 1/sqrt(in)).

    Raises ValueError if ``members`` is not a multiple of the number of generators.
    """

    def __init__(self, members: int, in_dim: int, out_dim: int, generators: Sequence[torch.Generator]):
        super().__init__()
        if members % len(generators):
            raise ValueError(f"members must be a multiple of {len(generators)} generators, found {members}")
        share, bound = members // len(generators), 1.0 / math.sqrt(in_dim)

        def uniform(*shape: int) -> Tensor:
            draws = [torch.rand(share, *shape, generator=g, device=g.device) for g in generators]
            return torch.cat(draws).mul_(2 * bound).sub_(bound)

        self.weight = nn.Parameter(uniform(in_dim, out_dim))
        self.bias = nn.Parameter(uniform(1, out_dim))

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """x [M, B, in] -> [M, B, out], where M is the number of networks that ``members`` selects."""
        weight, bias = self.of(members)
        return product(bias, x, weight)

    def of(self, members: slice = ALL) -> tuple[Tensor, Tensor]:
        """Weight and bias of the selected members; of all members, the parameters themselves, since even a
        full slice costs a zero-filled copy in every backward pass."""
        return (self.weight, self.bias) if members == ALL else (self.weight[members], self.bias[members])


def product(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """bias [M, 1, out] + x [M, B, in] weight [M, in, out]."""
    members, (rows, columns), threads = len(x), weight.shape[1:], torch.get_num_threads()
    # A batched product assigns whole members to threads: with three members and two threads, one gets two.
    uneven = members % threads and members < 4 * threads and rows * columns >= _LARGE
    if uneven and x.device.type == "cpu":
        return OneByOne.apply(bias, x, weight)
    return torch.baddbmm(bias, x, weight)


_LARGE = 128 * 128
"""Smallest number of elements for which splitting one matrix among threads pays."""


class OneByOne(torch.autograd.Function):
    """``baddbmm`` one member at a time, with all threads on each; it may round differently.

    With two threads and three members it is 1.3 times as fast for 512 x 512 matrices, 1.1 for 128 x 128.
    """

    @staticmethod
    def forward(ctx: Any, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = x.new_empty(*x.shape[:2], weight.shape[2])
        for member in zip(bias, x, weight, out, strict=True):
            torch.addmm(*member[:3], out=member[3])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_bias, to_x, to_weight = ctx.needs_input_grad
        return (
            gradient.sum(dim=1, keepdim=True) if to_bias else None,
            _each(gradient, weight.mT) if to_x else None,
            _each(x.mT, gradient) if to_weight else None,
        )


def _each(left: Tensor, right: Tensor) -> Tensor:
    out = left.new_empty(len(left), left.shape[1], right.shape[2])
    for member in zip(left, right, out, strict=True):
        torch.mm(*member[:2], out=member[2])
    return out


class StackedMLP(nn.Module):
    """M multi-layer perceptrons with sizes ``(in, hidden..., out)``; no activation after the last layer."""

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        generators: Sequence[torch.Generator],
        activation: Activation = torch.relu,
    ):
        super().__init__()
        self.layers = nn.ModuleList(StackedLinear(members, i, o, generators) for i, o in pairwise(sizes))
        self.activation = activation

    def forward(self, x: Tensor, members: slice = ALL) -> Tensor:
        """x [M, B, in] -> [M, B, out], where M is the number of networks that ``members`` selects."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x, members))
        return self.layers[-1](x, members)

    def arrays(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weights and biases of each layer, as arrays that share memory with the parameters."""
        values = [parameter.detach().numpy() for parameter in self.parameters()]
        return list(zip(values[::2], values[1::2], strict=True))


@torch.no_grad()
def polyak_(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move every target parameter by ``rate`` towards the online one: t <- (1 - rate) t + rate o."""
    targets: list[Tensor] = [*target.parameters()]
    onlines: list[Tensor] = [*online.parameters()]
    torch._foreach_lerp_(targets, onlines, rate)
