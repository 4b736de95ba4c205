"""Arithmetic of small networks that rounds alike on every processor: the same recipe gives the same bytes.

Linear algebra libraries choose the order of a sum, and vectorised maths libraries their approximation of a
function, by the processor (and by the number of rows). Here a sum has one fixed order (``products``), and the
few functions needed use only exactly rounded operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2_policies.compiled import compiled
from dom2_policies.products import Float32, product

Layers = Sequence[tuple[Float32, Float32]]
"""Weights [M, in, out] and biases [M, 1, out] of each layer, C-contiguous."""

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 = high + low (fdlibm)
_TAYLOR = tuple(1.0 / math.factorial(k) for k in range(14, -1, -1))


@compiled(error_model="numpy", inline="always")
def _exp(x: float) -> float:
    """e^x for |x| <= 50, within two units in the last place of a double."""
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    total = 0.0
    for coefficient in _TAYLOR:  # |r| <= ln(2) / 2: the remainder is below 1e-17
        total = coefficient + total * r
    scale = 1.0
    for _ in range(abs(int(n))):
        scale *= 2.0 if n > 0 else 0.5
    return total * scale


@compiled(nogil=True, error_model="numpy")
def _tanh(x: Float32) -> None:
    """Apply tanh to a flat array in place."""
    for i in range(x.size):
        value = min(max(np.float64(x[i]), -20.0), 20.0)  # beyond it a float32's tanh is +-1
        e = _exp(2.0 * value)
        x[i] = np.float32((e - 1.0) / (e + 1.0))


def tanh(x: Float32) -> Float32:
    """tanh of an array, as a new array; within 2e-16, so exact to the last place except for tiny numbers."""
    out = np.array(x, np.float32, order="C")
    _tanh(out.reshape(-1))
    return out


def forward(layers: Layers, x: Float32) -> list[Float32]:
    """The inputs [M, B, in] of each layer of M MLPs (ReLU between layers), and the output last."""
    seen = [x]
    for weight, bias in layers[:-1]:
        seen.append(product(seen[-1], weight, bias, relu=True))
    weight, bias = layers[-1]
    return [*seen, product(seen[-1], weight, bias)]


def gradients(layers: Layers, seen: Sequence[Float32], gradient: Float32) -> list[Float32]:
    """Gradients of weights and biases, layer by layer, from the gradient of ``forward``'s output."""
    found: list[Float32] = []
    for x, down in zip(seen[-2::-1], _descend(layers, seen, gradient), strict=True):
        found[:0] = [product(x.swapaxes(1, 2), down), down.sum(axis=1, keepdims=True)]
    return found


def input_gradient(layers: Layers, seen: Sequence[Float32], gradient: Float32) -> Float32:
    """Gradient of the first layer's input, from the gradient of ``forward``'s output."""
    *_, first = _descend(layers, seen, gradient)
    return product(first, layers[0][0].swapaxes(1, 2))


def _descend(layers: Layers, seen: Sequence[Float32], gradient: Float32) -> Iterator[Float32]:
    """Yield the gradients of each layer's output (before its ReLU), the last layer first."""
    yield gradient
    for number in range(len(layers) - 1, 0, -1):
        gradient = product(gradient, layers[number][0].swapaxes(1, 2)) * (seen[number] > 0)
        yield gradient


def normal(seed: int, shape: Sequence[int]) -> Float32:
    """Standard normal numbers from NumPy.

    NumPy draws them by comparing integers with a table; PyTorch uses functions that round differently on each
    processor.
    """
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@compiled(nogil=True, error_model="numpy")
def _add_squares(gradient: Float32, sums: NDArray[np.float64]) -> None:
    """Add the squares of gradient [M, n] to sums [M], in order."""
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


@compiled(nogil=True, error_model="numpy")
def _adam(*given: Any) -> None:
    values, gradient, first, second, rate, correction = given
    for i in range(values.size):
        g = gradient[i]
        first[i] = np.float32(0.9) * first[i] + np.float32(0.1) * g
        second[i] = np.float32(0.999) * second[i] + np.float32(0.001) * (g * g)
        values[i] -= rate * first[i] / (np.sqrt(second[i]) / correction + np.float32(1e-8))
