"""MADiff's noise network (Zhu et al. 2024): a temporal U-Net per agent with attention between the agents.

S members (seeds) run as one batched product per layer. Features are [S, B, N, H, C]: members, rows, agents,
steps, channels. A convolution over time is a matrix product, too: over all steps together if they are few,
otherwise over each step's neighbourhood.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad

from dom2.networks import Generators, Index, TimeEmbedding, at, mish
from dom2_policies.stacked import StackedLinear, StackedMLP

HEADS = 4
FEATURES = 32  # width of the time embedding, and of the return's
KERNEL = 5
FEW, WIDE = 8, 1024
"""largest steps, and steps x channels, for one product over all steps: half the time on a CPU"""


def linear(layer: StackedLinear, x: Tensor) -> Tensor:
    """A stacked layer on the last axis of x [S, ..., C]."""
    return layer(x.flatten(1, -2)).unflatten(1, x.shape[1:-1])


class Convolution(nn.Module):
    """Convolution over time, padded with zeros: [S, B, N, H, in] -> [S, B, N, H / stride, out]."""

    def __init__(self, members: int, in_dim: int, out_dim: int, generators: Generators, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.linear = StackedLinear(members, KERNEL * in_dim, out_dim, generators)

    def forward(self, x: Tensor) -> Tensor:
        steps, half = x.shape[3], KERNEL // 2
        if steps > FEW or steps * x.shape[-1] > WIDE:
            return linear(self.linear, pad(x, (0, 0, half, half)).unfold(3, KERNEL, self.stride).flatten(-2))
        kernel = self.linear.weight.unflatten(1, (-1, KERNEL)).transpose(1, 2)  # [S, KERNEL, in, out]
        starts = range(-half, steps - half, self.stride)
        shifted = [pad(kernel, (0, 0, 0, 0, start, steps - KERNEL - start)) for start in starts]
        matrix = torch.stack(shifted, dim=3).flatten(3).flatten(1, 2)  # [S, H x in, H / stride x out]
        bias = self.linear.bias.repeat(1, 1, len(starts))
        out = torch.baddbmm(bias, x.flatten(3).flatten(1, 2), matrix)
        return out.view(*x.shape[:3], len(starts), -1)


class ResidualBlock(nn.Module):
    """Two convolutions, each normalised over channels; the embedding [S, B, E] is added after the first."""

    def __init__(self, members: int, in_dim: int, out_dim: int, embed_dim: int, generators: Generators):
        super().__init__()
        self.first = Convolution(members, in_dim, out_dim, generators)
        self.second = Convolution(members, out_dim, out_dim, generators)
        self.project = StackedLinear(members, embed_dim, out_dim, generators)
        self.skip = StackedLinear(members, in_dim, out_dim, generators)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = mish(normalised(self.first(x))) + self.project(mish(embedding))[:, :, None, None]
        return mish(normalised(self.second(h))) + linear(self.skip, x)


def normalised(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])


class AgentAttention(nn.Module):
    """Attention over the agents' features, with one token for all steps of an agent.

    Its output is added with a weight that begins at zero, so the agents are independent at first.
    """

    def __init__(self, members: int, dim: int, generators: Generators):
        super().__init__()
        self.key_dim = max(1, dim // (4 * HEADS))
        self.query = StackedLinear(members, dim, HEADS * self.key_dim, generators)
        self.key = StackedLinear(members, dim, HEADS * self.key_dim, generators)
        self.value = StackedLinear(members, dim, dim, generators)
        self.gate = nn.Parameter(torch.zeros(members, 1, 1, 1, 1, device=generators[0].device))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.tokens(layer, x) for layer in (self.query, self.key, self.value))
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = (weights @ value).unflatten(-1, (x.shape[3], -1))  # [S, B, heads, N, H, C / heads]
        return x + self.gate * mixed.movedim(2, -2).flatten(-2)

    def tokens(self, layer: StackedLinear, x: Tensor) -> Tensor:
        """[S, B, N, H, C] -> [S, B, heads, N, H x dim of a head]"""
        return linear(layer, x).unflatten(-1, (HEADS, -1)).movedim(-2, 2).flatten(-2)


class TemporalUNet(nn.Module):
    """Predict the noise in joint observation trajectories, given time, return, and the known first steps.

    There is one level for each of the ``mults``, with dim x mult channels; time is halved between levels. The
    horizon must be divisible by 2^(levels - 1).
    """

    def __init__(
        self,
        members: int,
        obs_dim: int,
        grid: Tensor,
        generators: Generators,
        dim: int,
        mults: Sequence[int],
    ):
        super().__init__()
        widths = [dim * mult for mult in mults]
        embed = 4 * FEATURES
        self.time = TimeEmbedding(members, grid, generators, FEATURES)
        self.returns = StackedMLP(members, (1, FEATURES, FEATURES), generators, mish)
        self.embed = StackedMLP(members, (2 * FEATURES, embed, embed), generators, mish)
        ins = [obs_dim + 1, *widths[:-1]]
        self.down = nn.ModuleList(
            ResidualBlock(members, i, o, embed, generators) for i, o in zip(ins, widths, strict=True)
        )
        self.halve = nn.ModuleList(Convolution(members, w, w, generators, stride=2) for w in widths[:-1])
        self.middle = ResidualBlock(members, widths[-1], widths[-1], embed, generators)
        self.attend = nn.ModuleList(AgentAttention(members, w, generators) for w in widths)
        self.up = nn.ModuleList(
            ResidualBlock(members, wide + w, w, embed, generators)
            for wide, w in zip(widths[1:], widths[:-1], strict=True)
        )
        self.head = StackedLinear(members, widths[0], obs_dim, generators)

    def forward(self, x: Tensor, known: Tensor, i: Index, returns: Tensor, given: Tensor) -> Tensor:
        """x [S, B, N, H, O], known [S, B, N] (1: the first step is the observed one), grid index i (or
        [S, B]), returns [S, B] used where ``given`` [S, B] is 1 -> noise [S, B, N, H, O]."""
        flag = torch.zeros_like(x[..., :1])
        flag[:, :, :, 0, 0] = known
        condition = self.returns(returns.unsqueeze(-1)) * given.unsqueeze(-1)
        times = at(self.time(), i).expand(-1, x.shape[1], -1)
        embedding = self.embed(torch.cat([times, condition], dim=-1))
        h, skips = torch.cat([x, flag], dim=-1), []
        for level, block in enumerate(self.down):
            h = block(h, embedding)
            skips.append(h)
            if level < len(self.halve):
                h = self.halve[level](h)
        h = self.attend[-1](self.middle(h, embedding))
        for level in reversed(range(len(self.up))):
            h = h.repeat_interleave(2, dim=3)
            h = self.up[level](torch.cat([h, self.attend[level](skips[level])], dim=-1), embedding)
        return linear(self.head, h)
