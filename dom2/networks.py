"""Stacked networks: the residual noise network, the MLP that replaces it in the ablation, and twin critics.

M members (seeds x agents) run as one batched product per layer. The time embedding depends only on the
grid index and the condition only on the observation, so a noise network's ``given(obs)`` computes both
once and returns the function eps(x, i), which the whole denoising chain calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from dom2_policies.stacked import ALL, Activation, StackedLinear, StackedMLP

Index = int | Tensor
Noise = Callable[[Tensor, Index], Tensor]
Generators = Sequence[torch.Generator]


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of the N+1 grid times, then a linear layer (Song et al. 2021)."""

    features: Tensor

    def __init__(self, members: int, grid: Tensor, generators: Generators, out_dim: int):
        super().__init__()
        share = members // len(generators)
        normals = [torch.randn(share, 1, out_dim // 2, generator=g, device=g.device) for g in generators]
        phases = 2.0 * math.pi * 30.0 * torch.cat(normals) * grid.to(normals[0])[:, None]
        self.register_buffer("features", torch.cat([phases.sin(), phases.cos()], dim=-1))
        self.linear = StackedLinear(members, out_dim, out_dim, generators)

    def forward(self) -> Tensor:
        """Embeddings of all grid times, [M, N+1, out_dim]."""
        return self.linear(self.features)


class Narrow(torch.autograd.Function):
    """x W + b for a layer with few outputs; each product is arranged with the wide matrix first.

    On a CPU, MKL multiplies [256, 128] by [128, 1] at a fortieth of the rate of [256, 128] by [128, 128],
    forward and backward: heads with one or two outputs took a sixth of an update's time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.mT, weight.mT.contiguous(), x.mT).mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        one = weight.shape[2] == 1
        return (
            (gradient * weight.mT if one else torch.bmm(gradient, weight.mT)) if to_x else None,
            torch.bmm(gradient.mT, x).mT if to_weight else None,
            gradient.sum(dim=1, keepdim=True) if to_bias else None,
        )


def narrow(layer: StackedLinear, x: Tensor, members: slice = ALL) -> Tensor:
    """Apply a layer with one or a few outputs to x [M, B, in] -> [M, B, out]."""
    if x.device.type == "cpu":
        return Narrow.apply(x, *layer.of(members))
    return layer(x, members)


class Mish(torch.autograd.Function):
    """x tanh(softplus(x)) with tanh(softplus(x)) = n / (n + 2), n = e^x (e^x + 2): one saved exponential.

    PyTorch's Mish takes 2.5 times as long on a CPU, forward and backward; there it is a tenth of an update.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        e = x.clamp(max=20.0).exp_()  # beyond, the ratio is 1
        n = (e + 2.0).mul_(e)
        ratio = n.div_(n + 2.0)
        ctx.save_for_backward(x, e, ratio)
        return x * ratio

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, e, ratio = ctx.saved_tensors
        return (1.0 - ratio * ratio).mul_(e / (e + 1.0)).mul_(x).add_(ratio).mul_(gradient)


def mish(x: Tensor) -> Tensor:
    """Mish, the activation of Diffusion-QL's and MADiff's networks."""
    return Mish.apply(x) if x.device.type == "cpu" else torch.nn.functional.mish(x)


def at(times: Tensor, i: Index) -> Tensor:
    """times [M, N+1, D] at one index -> [M, 1, D], or at indices [M, B] -> [M, B, D]."""
    if isinstance(i, int):
        return times[:, i : i + 1]
    return times.gather(1, i.unsqueeze(-1).expand(-1, -1, times.shape[-1]))


class ResidualBlock(nn.Module):
    """h = silu(W1 x) + c; h = silu(W2 h); out = h + skip(x), with c the projected condition."""

    def __init__(self, members: int, in_dim: int, out_dim: int, generators: Generators):
        super().__init__()
        self.first = StackedLinear(members, in_dim, out_dim, generators)
        self.second = StackedLinear(members, out_dim, out_dim, generators)
        self.skip = (
            StackedLinear(members, in_dim, out_dim, generators) if in_dim != out_dim else nn.Identity()
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = silu(self.first(x)) + condition
        return silu(self.second(h)) + self.skip(x)


class ResidualNoise(nn.Module):
    """The U-shaped residual score network of SfBC (Chen et al. 2022), here predicting the noise itself.

    Widths (w1, w2, w3): act -> w1 -> w2 -> w3 -> w3, then up to w2 and w1 with skips by concatenation.
    One linear layer projects the embedding for all six blocks and is split: fewer, larger products.
    """

    def __init__(
        self,
        members: int,
        obs_dim: int,
        act_dim: int,
        grid: Tensor,
        generators: Generators,
        widths: Sequence[int] = (128, 64, 32),
        embed_dim: int = 64,
        feature_dim: int = 32,
    ):
        super().__init__()
        w1, w2, w3 = widths
        ins, outs = (act_dim, w1, w2, w3, 2 * w3, 2 * w2), (w1, w2, w3, w3, w2, w1)
        self.feature_dim, self.block_widths = feature_dim, list(outs)
        self.time = TimeEmbedding(members, grid, generators, feature_dim)
        self.obs = StackedLinear(members, obs_dim, feature_dim, generators)
        self.embed = StackedLinear(members, 2 * feature_dim, embed_dim, generators)
        self.embed_out = StackedLinear(members, embed_dim, embed_dim, generators)
        self.project = StackedLinear(members, embed_dim, sum(outs), generators)
        self.blocks = nn.ModuleList(
            ResidualBlock(members, i, o, generators) for i, o in zip(ins, outs, strict=True)
        )
        self.head = StackedLinear(members, 2 * w1, act_dim, generators)

    def given(self, obs: Tensor) -> Noise:
        """obs [M, B, O] -> eps(x [M, B, A], i) [M, B, A], where i is one grid index or a tensor [M, B].

        Terms that depend only on observation and grid index are computed once for all x: a third of the work.
        """
        weight_obs, weight_time = self.embed.weight.split(self.feature_dim, dim=1)
        condition = torch.baddbmm(self.embed.bias, silu(self.obs(obs)), weight_obs)
        times, kept = self.time() @ weight_time, dict[int, Sequence[Tensor]]()

        def eps(x: Tensor, i: Index) -> Tensor:
            if not isinstance(i, int):
                return self._predict(x, self._conditions(condition + at(times, i)))
            if i not in kept:
                kept[i] = self._conditions(condition + at(times, i))
            return self._predict(x, kept[i])

        return eps

    def _conditions(self, embedded: Tensor) -> Sequence[Tensor]:
        """The condition that each of the six blocks adds, [M, B, its width]."""
        embedding = self.embed_out(silu(embedded))
        return self.project(silu(embedding)).split(self.block_widths, dim=-1)

    def _predict(self, x: Tensor, c: Sequence[Tensor]) -> Tensor:
        down1, down2, down3, middle, up3, up2 = self.blocks
        d1 = down1(x, c[0])
        d2 = down2(d1, c[1])
        d3 = down3(d2, c[2])
        u3 = up3(torch.cat([d3, middle(d3, c[3])], dim=-1), c[4])
        u2 = up2(torch.cat([d2, u3], dim=-1), c[5])
        return narrow(self.head, torch.cat([d1, u2], dim=-1))


class MLPNoise(nn.Module):
    """Plain MLP on (x, tau, obs) for the ablation: the noise network of Diffusion-QL (Wang et al. 2022)."""

    def __init__(
        self,
        members: int,
        obs_dim: int,
        act_dim: int,
        grid: Tensor,
        generators: Generators,
        widths: Sequence[int] = (128, 128, 128),
        feature_dim: int = 32,
    ):
        super().__init__()
        self.time = TimeEmbedding(members, grid, generators, feature_dim)
        self.mlp = StackedMLP(members, (act_dim + feature_dim + obs_dim, *widths, act_dim), generators, mish)

    def given(self, obs: Tensor) -> Noise:
        """The same contract as ``ResidualNoise.given``."""
        times = self.time()
        return lambda x, i: self.mlp(torch.cat([x, at(times, i).expand(*obs.shape[:2], -1), obs], dim=-1))


class TwinCritics(nn.Module):
    """Two independent Q(o, a) per member, as one stack of 2M: network 2m + k is critic k of member m."""

    def __init__(
        self,
        members: int,
        obs_dim: int,
        act_dim: int,
        generators: Generators,
        widths: Sequence[int] = (128, 128),
        activation: Activation = torch.relu,
    ):
        super().__init__()
        self.dims, self.activation = (obs_dim, act_dim), activation
        self.mlp = StackedMLP(2 * members, (obs_dim + act_dim, *widths, 1), generators, activation)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """obs [M, B, O], actions [M, K, B, A] (K actions for each observation) -> Q [M, 2, K, B]."""
        obs, actions = (values.repeat_interleave(2, dim=0) for values in (obs, actions))
        return self._q(obs, actions, ALL).unflatten(0, (-1, 2))

    def first(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Q [M, K, B] of each member's first critic alone, at half the cost."""
        return self._q(obs, actions, slice(None, None, 2))

    def _q(self, obs: Tensor, actions: Tensor, chosen: slice) -> Tensor:
        layers = [layer for layer in self.mlp.layers if isinstance(layer, StackedLinear)]
        first, *hidden, last = layers
        weight, bias = first.of(chosen)
        weight_obs, weight_act = weight.split(self.dims, dim=1)
        from_obs = torch.baddbmm(bias, obs, weight_obs)
        # One action at a time: the observation's part is computed once, and every intermediate result
        # stays small enough for the cache (all K at once take a third longer on a CPU).
        values = []
        for action in actions.unbind(dim=1):
            h = self.activation(torch.baddbmm(from_obs, action, weight_act))
            for layer in hidden:
                h = self.activation(layer(h, chosen))
            values.append(narrow(last, h, chosen).squeeze(-1))
        return torch.stack(values, dim=1)
