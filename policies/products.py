"""Batched matrix products that round alike on every processor and are about as fast as a tuned library's.

Every element of the result is one sum in a fixed order, and each step is one fused multiply-add (rounded
once, by IEEE 754, on any hardware). So no bit depends on the width of a processor's registers or on the
number of rows. The products are fast because the sums of a tile of the result stay in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from dom2_policies.compiled import compiled

Float32 = NDArray[np.float32]

_ROWS = 6
"""rows of a tile: 16 columns of them take twelve registers of eight floats, and factors need the others"""
_INDEX, _FLOAT, _ALIGNED = ir.IntType(64), ir.FloatType(), 4


def _tile(rows: int, width: int) -> Any:
    """One tile of ``product``: the first ``rows`` rows and ``width`` columns of its arguments."""
    vector = ir.VectorType(_FLOAT, width)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, weight, bias, out = (
            context.make_array(signature.args[i])(context, builder, given[i]) for i in (0, 1, 2, 4)
        )
        terms, _ = cgutils.unpack_tuple(builder, weight.shape, 2)
        x_row, weight_row, out_row = (
            builder.sdiv(cgutils.unpack_tuple(builder, array.strides, 2)[0], _INDEX(4))
            for array in (x, weight, out)
        )
        fma_type = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, fma_type, f"llvm.fma.v{width}f32")
        every_lane = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)

        def at(array: Any, offset: Any) -> Any:
            return builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer())

        def load(array: Any, offset: Any) -> Any:
            return builder.load(at(array, offset), align=_ALIGNED)

        def spread(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), every_lane)

        sums = [cgutils.alloca_once_value(builder, load(bias, _INDEX(0))) for _ in range(rows)]
        with cgutils.for_range(builder, terms) as loop:
            factors = load(weight, builder.mul(loop.index, weight_row))
            for row, total in enumerate(sums):
                place = builder.add(builder.mul(_INDEX(row), x_row), loop.index)
                factor = spread(builder.load(builder.gep(x.data, [place])))
                builder.store(builder.call(fma, (factor, factors, builder.load(total))), total)
        relu, zero = cgutils.is_not_null(builder, given[3]), ir.Constant(vector, [0.0] * width)
        for row, total in enumerate(sums):
            found = builder.load(total)
            negative = builder.fcmp_ordered("<", found, zero)
            found = builder.select(relu, builder.select(negative, zero, found), found)
            builder.store(found, at(out, builder.mul(_INDEX(row), out_row)), align=_ALIGNED)
        return context.get_dummy_value()

    def typed(_: Any, x: Any, weight: Any, bias: Any, relu: Any, out: Any) -> Any:
        return types.none(x, weight, bias, relu, out), generate

    return intrinsic(typed)


def _strip(width: int) -> Any:
    """Compile the product of one member's matrices for the first ``width`` columns."""
    several, single = _tile(_ROWS, width), _tile(1, width)

    @njit(nogil=True, error_model="numpy")
    def strip(x: Float32, weight: Float32, bias: Float32, relu: bool, out: Float32) -> None:
        whole = len(x) - len(x) % _ROWS
        for row in range(0, whole, _ROWS):
            several(x[row:], weight, bias, relu, out[row:])
        for row in range(whole, len(x)):
            single(x[row:], weight, bias, relu, out[row:])

    return strip


_sixteen, _four, _two, _one = (_strip(width) for width in (16, 4, 2, 1))


@compiled(nogil=True, error_model="numpy")
def _product(x: Float32, weight: Float32, bias: Float32, relu: bool, out: Float32) -> None:
    columns = weight.shape[2]
    for m in range(len(x)):
        j = 0
        while j < columns:
            given, left = (x[m], weight[m, :, j:], bias[m, 0, j:], relu, out[m, :, j:]), columns - j
            if left >= 16:
                _sixteen(*given)
                j += 16
            elif left >= 4:
                _four(*given)
                j += 4
            elif left >= 2:
                _two(*given)
                j += 2
            else:
                _one(*given)
                j += 1


def product(x: Float32, weight: Float32, bias: Float32 | None = None, relu: bool = False) -> Float32:
    """bias [M, 1, N] (default 0) + x [M, B, K] weight [M, K, N]; with ``relu``, negative results become 0.

    Each sum starts with the bias and adds terms in ascending order of K.
    """
    out = np.empty((x.shape[0], x.shape[1], weight.shape[2]), np.float32)
    if bias is None:
        bias = np.zeros((len(out), 1, out.shape[2]), np.float32)
    given = np.ascontiguousarray(x), np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    _product(*given, relu, out)
    return out
