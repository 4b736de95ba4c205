"""Arithmetic of small networks that rounds alike on every processor: the same recipe gives the same bytes.

Libraries of linear algebra choose the order of a sum, vectorised ones their approximation of a function, by
the processor (and by the number of rows). Here a sum has one order, each of its steps is one fused
multiply-add (rounded once by IEEE 754 whatever computes it), and the few functions needed are made of exactly
rounded operations alone. A third of the speed of a tuned library; what is computed here is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Layers = Sequence[tuple[Float32, Float32]]
"""Weights [M, in, out] and biases [M, 1, out] of each layer, C-contiguous."""

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 = high + low (fdlibm)
_TAYLOR = tuple(1.0 / math.factorial(k) for k in range(14, -1, -1))
_NARROW = 8
"""Columns below which sums are kept in registers instead of the columns being worked at side by side."""


def _multiply_add(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once: the compiler's types and code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, b, c), generate


_fma: Any = intrinsic(_multiply_add)


@njit(cache=True, nogil=True, error_model="numpy")
def _dense(x: Float32, weight: Float32, bias: Float32, relu: bool, out: Float32) -> None:
    """out [M, B, N] = bias [M, 1, N] + x [M, B, K] weight [M, K, N], each sum in ascending order of K.

    Four rows and four terms at a time, because a weight that is read once then serves sixteen products; the
    order of the terms of one sum is the same in every branch.
    """
    members, rows, terms = x.shape
    columns = weight.shape[2]
    for m in range(members):
        w = weight[m]
        for b in range(0, rows - rows % 4, 4):
            x0, x1, x2, x3 = x[m, b], x[m, b + 1], x[m, b + 2], x[m, b + 3]
            o0, o1, o2, o3 = out[m, b], out[m, b + 1], out[m, b + 2], out[m, b + 3]
            for j in range(columns):
                o0[j] = o1[j] = o2[j] = o3[j] = bias[m, 0, j]
            for k in range(0, terms - terms % 4, 4):
                a0, a1, a2, a3 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
                b0, b1, b2, b3 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
                c0, c1, c2, c3 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
                d0, d1, d2, d3 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
                for j in range(columns):
                    w0, w1, w2, w3 = w[k, j], w[k + 1, j], w[k + 2, j], w[k + 3, j]
                    o0[j] = _fma(a3, w3, _fma(a2, w2, _fma(a1, w1, _fma(a0, w0, o0[j]))))
                    o1[j] = _fma(b3, w3, _fma(b2, w2, _fma(b1, w1, _fma(b0, w0, o1[j]))))
                    o2[j] = _fma(c3, w3, _fma(c2, w2, _fma(c1, w1, _fma(c0, w0, o2[j]))))
                    o3[j] = _fma(d3, w3, _fma(d2, w2, _fma(d1, w1, _fma(d0, w0, o3[j]))))
            for k in range(terms - terms % 4, terms):
                for j in range(columns):
                    o0[j] = _fma(x0[k], w[k, j], o0[j])
                    o1[j] = _fma(x1[k], w[k, j], o1[j])
                    o2[j] = _fma(x2[k], w[k, j], o2[j])
                    o3[j] = _fma(x3[k], w[k, j], o3[j])
        for b in range(rows - rows % 4, rows):
            out[m, b] = bias[m, 0]
            for k in range(terms):
                for j in range(columns):
                    out[m, b, j] = _fma(x[m, b, k], w[k, j], out[m, b, j])
        if relu:
            for b in range(rows):
                for j in range(columns):
                    if out[m, b, j] < 0.0:
                        out[m, b, j] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _narrow(x: Float32, weight: Float32, bias: Float32, out: Float32) -> None:
    """``_dense`` for few columns: the same terms in the same order, four rows at a time."""
    members, rows, terms = x.shape
    for m in range(members):
        for j in range(weight.shape[2]):
            w = weight[m, :, j].copy()
            for b in range(0, rows - rows % 4, 4):
                s0 = s1 = s2 = s3 = bias[m, 0, j]
                for k in range(terms):
                    s0 = _fma(x[m, b, k], w[k], s0)
                    s1 = _fma(x[m, b + 1, k], w[k], s1)
                    s2 = _fma(x[m, b + 2, k], w[k], s2)
                    s3 = _fma(x[m, b + 3, k], w[k], s3)
                out[m, b, j], out[m, b + 1, j], out[m, b + 2, j], out[m, b + 3, j] = s0, s1, s2, s3
            for b in range(rows - rows % 4, rows):
                s0 = bias[m, 0, j]
                for k in range(terms):
                    s0 = _fma(x[m, b, k], w[k], s0)
                out[m, b, j] = s0


def product(x: Float32, weight: Float32, bias: Float32 | None = None, relu: bool = False) -> Float32:
    """bias [M, 1, N] (0 if not given) + x [M, B, K] weight [M, K, N]; with ``relu`` where that is above 0."""
    out = np.empty((x.shape[0], x.shape[1], weight.shape[2]), np.float32)
    if bias is None:
        bias = np.zeros((len(out), 1, out.shape[2]), np.float32)
    given = np.ascontiguousarray(x), np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    if relu or out.shape[2] >= _NARROW:
        _dense(*given, relu, out)
    else:
        _narrow(*given, out)
    return out


@njit(cache=True, error_model="numpy", inline="always")
def _exp(x: float) -> float:
    """e^x for |x| <= 50, within two units of the last place of a double."""
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    total = 0.0
    for coefficient in _TAYLOR:  # |r| <= ln(2) / 2: what is left out is below 1e-17
        total = coefficient + total * r
    scale = 1.0
    for _ in range(abs(int(n))):
        scale *= 2.0 if n > 0 else 0.5
    return total * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _tanh(x: Float32) -> None:
    """In place, flat."""
    for i in range(x.size):
        value = min(max(np.float64(x[i]), -20.0), 20.0)  # beyond, a float's tanh is 1
        e = _exp(2.0 * value)
        x[i] = np.float32((e - 1.0) / (e + 1.0))


def tanh(x: Float32) -> Float32:
    """tanh of an array, a new one; within 2e-16, so right to the last place but for the smallest numbers."""
    out = np.array(x, np.float32, order="C")
    _tanh(out.reshape(-1))
    return out


def forward(layers: Layers, x: Float32) -> list[Float32]:
    """What each layer of M perceptrons (ReLU between layers) reads, [M, B, in], and the output last."""
    seen = [x]
    for weight, bias in layers[:-1]:
        seen.append(product(seen[-1], weight, bias, relu=True))
    weight, bias = layers[-1]
    return [*seen, product(seen[-1], weight, bias)]


def gradients(layers: Layers, seen: Sequence[Float32], gradient: Float32) -> list[Float32]:
    """From the gradient of ``forward``'s output, those of weights and biases, in the order of the layers."""
    found: list[Float32] = []
    for x, down in zip(seen[-2::-1], _descend(layers, seen, gradient), strict=True):
        found[:0] = [product(x.swapaxes(1, 2), down), down.sum(axis=1, keepdims=True)]
    return found


def input_gradient(layers: Layers, seen: Sequence[Float32], gradient: Float32) -> Float32:
    """From the gradient of ``forward``'s output, that of what its first layer reads."""
    *_, first = _descend(layers, seen, gradient)
    return product(first, layers[0][0].swapaxes(1, 2))


def _descend(layers: Layers, seen: Sequence[Float32], gradient: Float32) -> Iterator[Float32]:
    """The gradients of each layer's output (before its ReLU), the last layer first."""
    yield gradient
    for number in range(len(layers) - 1, 0, -1):
        gradient = product(gradient, layers[number][0].swapaxes(1, 2)) * (seen[number] > 0)
        yield gradient


def normal(generator: torch.Generator, shape: Sequence[int]) -> Float32:
    """Standard normal numbers that follow from ``generator`` alone, and advance it by one draw.

    NumPy's are drawn by comparing integers with a table; PyTorch's by functions that each processor rounds
    its way.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_squares(gradient: Float32, sums: NDArray[np.float64]) -> None:
    """Add the squares of gradient [M, n] to sums [M], one after another."""
    for m in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            sums[m] += np.float64(gradient[m, i]) * np.float64(gradient[m, i])


def clipping(gradients: Sequence[Float32], largest: float) -> Float32:
    """The factor [M] that brings the norm of each member's gradients [M, ., .] to at most ``largest``."""
    sums = np.zeros(len(gradients[0]))
    for gradient in gradients:
        _add_squares(gradient.reshape(len(sums), -1), sums)
    return np.minimum(largest / (np.sqrt(sums) + 1e-6), 1.0).astype(np.float32)


def follow(targets: Layers, onlines: Layers, rate: float) -> None:
    """Move every target by ``rate`` towards the online one, in place: t <- t + rate (o - t)."""
    for target, online in zip(targets, onlines, strict=True):
        for mine, other in zip(target, online, strict=True):
            mine += np.float32(rate) * (other - mine)


def adam(
    values: Float32, gradient: Float32, first: Float32, second: Float32, rate: float, correction: float
) -> None:
    """One step of Adam (Kingma and Ba 2015; 0.9, 0.999, 1e-8) on arrays of one shape, in place.

    ``rate`` is the step size over 1 - 0.9^t, ``correction`` the root of 1 - 0.999^t.
    """
    flat = (array.reshape(-1) for array in (values, gradient, first, second))
    _adam(*flat, np.float32(rate), np.float32(correction))


@njit(cache=True, nogil=True, error_model="numpy")
def _adam(*given: Any) -> None:
    values, gradient, first, second, rate, correction = given
    for i in range(values.size):
        g = gradient[i]
        first[i] = np.float32(0.9) * first[i] + np.float32(0.1) * g
        second[i] = np.float32(0.999) * second[i] + np.float32(0.001) * (g * g)
        values[i] -= rate * first[i] / (np.sqrt(second[i]) / correction + np.float32(1e-8))
