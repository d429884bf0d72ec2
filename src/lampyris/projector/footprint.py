"""Runs of float32 along the axis → sums over boxes, spread over or blended from detector columns, as LLVM vectors.

A box resampling gives, for box n = [p + n·w, p + (n + 1)·w], the integral over it of a table that is constant on
[i, i + 1]: the exact overlap of slices with rows (p, w in slices) and, with the roles exchanged, its transpose. It is a
difference of two interpolations of a prefix sum, taken here tap by tap, because a float32 prefix sum over a long column
would lose the digits that make the pair exact. With w ≤ MAX_WIDTH a box meets at most three entries, and the entries of
a whole vector lie in two registers (see `simd`).

For use inside `numba.njit`; arrays are one-dimensional contiguous float32; runs are whole vectors of `LANES`, so
results need room up to the next multiple. `place` is p as an index of the table from `origin` on, ≥ 0, and `width`
is w: int64, in 1/ONE.
"""

from collections.abc import Callable
from typing import Any

import numba as nb
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lampyris.projector import simd
from lampyris.projector.simd import LANES

MAX_WIDTH = 1.85
"""Widest box of one pass: (LANES − 1)·width + 1 + 2 stays within two registers of 8 or 16."""
MAX_COLUMNS = 4
"""Most detector columns that one pass spreads over or blends from."""
ONE = 2.0**32
"""Positions and widths are int64 in units of 1/ONE."""
LEVEL = {simd.PORTABLE: "portable vectors", simd.AVX2: "AVX2", simd.AVX512: "AVX-512"}[simd.instruction_set()]

_f32, _i32, _i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_BITS = 26


class _Boxes:
    """Vectors of `LANES` floats in a function under construction; sums over consecutive boxes, one per lane."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.floats = ir.VectorType(_f32, LANES)
        self.ints = ir.VectorType(_i32, LANES)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("contract",))

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_i32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(self.ints, [0] * LANES))

    def load(self, data: Any, index: Any) -> Any:
        value = self.builder.load(self.address(data, index))
        value.align = 4
        return value

    def address(self, data: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [index]), self.floats.as_pointer())

    def constant(self, value: float) -> Any:
        return ir.Constant(self.floats, [value] * LANES)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def tap(self, table: Any, base: Any, index: Any, offset: int) -> Any:
        """Entries base + index + offset."""
        b = self.builder
        index = b.add(index, ir.Constant(self.ints, [offset] * LANES)) if offset else index
        if simd.instruction_set() == simd.PORTABLE:
            return self._singly(table, base, index)
        low, high = self.load(table, base), self.load(table, b.add(base, ir.Constant(_i64, LANES)))
        if simd.instruction_set() == simd.AVX512:
            return self._call("llvm.x86.avx512.vpermi2var.ps.512", low, index, high)
        from_low, from_high = (self._call("llvm.x86.avx2.permps", each, index) for each in (low, high))
        return b.select(b.icmp_signed(">", index, ir.Constant(self.ints, [LANES - 1] * LANES)), from_high, from_low)

    def _call(self, name: str, *args: Any) -> Any:
        kind = ir.FunctionType(self.floats, [each.type for each in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def _singly(self, table: Any, base: Any, index: Any) -> Any:
        b = self.builder
        found = ir.Constant(self.floats, ir.Undefined)
        for lane in range(LANES):
            number = ir.Constant(_i32, lane)
            at = b.add(base, b.sext(b.extract_element(index, number), _i64))
            found = b.insert_element(found, b.load(b.gep(table, [at])), number)
        return found

    def sums(self, table: Any, place: Any, width: Any, *, taps: int) -> Any:
        """Lane n: integral of the table over [place + n·width, place + (n + 1)·width], width ≤ taps − 1.

        Both in units of 2⁻³²: conversions between int64 and float64 would cost more than the rest. Inside the vector
        26 bits of fraction remain, ten times finer than float32 would be at the far end of two registers.
        """
        b = self.builder
        base = b.ashr(place, ir.Constant(_i64, 32))
        fraction = self.splat(b.lshr(b.trunc(place, _i32), ir.Constant(_i32, 32 - _BITS)))
        step = self.splat(b.trunc(b.ashr(width, ir.Constant(_i64, 32 - _BITS)), _i32))
        position = b.add(b.mul(ir.Constant(self.ints, list(range(LANES))), step), fraction)
        index = b.lshr(position, ir.Constant(self.ints, [_BITS] * LANES))
        rest = b.and_(position, ir.Constant(self.ints, [(1 << _BITS) - 1] * LANES))
        start = b.fmul(b.sitofp(rest, self.floats), self.constant(2.0**-_BITS))
        one, zero = self.constant(1.0), self.constant(0.0)
        stop = self.add(start, b.fmul(b.sitofp(step, self.floats), self.constant(2.0**-_BITS)))
        beyond = b.fsub(stop, one)
        inside = b.fsub(self.smaller(stop, one) if taps == 2 else one, start)
        total = self.mul(inside, self.tap(table, base, index, 0))
        if taps == 2:
            return self.add(total, self.mul(self.larger(beyond, zero), self.tap(table, base, index, 1)))
        total = self.add(total, self.mul(self.smaller(beyond, one), self.tap(table, base, index, 1)))
        last = self.larger(b.fsub(beyond, one), zero)
        return self.add(total, self.mul(last, self.tap(table, base, index, 2)))


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _each_vector(emit: Callable[..., None], arrays: tuple[int, int]) -> Callable[..., Any]:
    """Code that calls emit(vector, output, table, index, offset, args) for index = start, start + LANES … < stop.

    `arrays` are the places of output and table among the arguments; start and stop are the third and fourth.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _Boxes(builder)
        output, table = (_data(context, builder, signature.args[i], args[i]) for i in arrays)
        step = ir.Constant(_i64, LANES)
        with cgutils.for_range_slice(builder, args[2], args[3], step, intp=_i64, inc=True) as (index, _count):
            emit(vector, output, table, index, args)
        return context.get_dummy_value()

    return codegen


def _box_sums(vector: _Boxes, table: Any, index: Any, args: Any, taps: int) -> Any:
    """The sums of one vector; the last arguments are origin, place and width, where `place` belongs to `start`."""
    b = vector.builder
    place = b.add(args[-2], b.mul(b.sub(index, args[2]), args[-1]))
    return vector.sums(vector.builder.gep(table, [args[-3]]), place, args[-1], taps=taps)


def _write(vector: _Boxes, output: Any, at: Any, value: Any, *, add: bool) -> None:
    total = vector.add(vector.load(output, at), value) if add else value
    vector.builder.store(total, vector.address(output, at)).align = 4


def _boxes(taps: int, add: bool) -> Any:
    @intrinsic
    def run(typing, out, at, start, stop, table, origin, place, width):  # type: ignore[no-untyped-def] # noqa: ARG001
        def emit(vector: _Boxes, output: Any, table: Any, index: Any, args: Any) -> None:
            sums = _box_sums(vector, table, index, args, taps)
            _write(vector, output, vector.builder.add(args[1], index), sums, add=add)

        return types.void(out, at, start, stop, table, origin, place, width), _each_vector(emit, (0, 4))

    return run


def _spread(columns: int, taps: int) -> Any:
    @intrinsic
    def run(typing, out, at, start, stop, stride, weights, table, origin, place, width):  # type: ignore[no-untyped-def] # noqa: ARG001
        def emit(vector: _Boxes, output: Any, table: Any, index: Any, args: Any) -> None:
            b = vector.builder
            sums = _box_sums(vector, table, index, args, taps)
            for i in range(columns):
                to = b.add(b.add(args[1], index), b.mul(args[4], ir.Constant(_i64, i)))
                _write(vector, output, to, vector.mul(vector.splat(b.extract_value(args[5], i)), sums), add=True)

        return types.void(out, at, start, stop, stride, weights, table, origin, place, width), _each_vector(
            emit, (0, 6)
        )

    return run


def _blend(columns: int) -> Any:
    @intrinsic
    def run(typing, out, at, start, stop, stride, weights, table, origin):  # type: ignore[no-untyped-def] # noqa: ARG001
        def emit(vector: _Boxes, output: Any, table: Any, index: Any, args: Any) -> None:
            b = vector.builder
            total = None
            for i in range(columns):
                of = b.add(b.add(args[7], index), b.mul(args[4], ir.Constant(_i64, i)))
                part = vector.mul(vector.splat(b.extract_value(args[5], i)), vector.load(table, of))
                total = part if total is None else vector.add(total, part)
            _write(vector, output, b.add(args[1], index), total, add=False)

        return types.void(out, at, start, stop, stride, weights, table, origin), _each_vector(emit, (0, 6))

    return run


_TWO_TAPS = int(ONE)
_boxes_2, _boxes_3, _add_2, _add_3 = _boxes(2, False), _boxes(3, False), _boxes(2, True), _boxes(3, True)
_spread_12, _spread_22, _spread_32, _spread_42 = (_spread(columns, 2) for columns in (1, 2, 3, 4))
_spread_13, _spread_23, _spread_33, _spread_43 = (_spread(columns, 3) for columns in (1, 2, 3, 4))
_blend_1, _blend_2, _blend_3, _blend_4 = (_blend(columns) for columns in (1, 2, 3, 4))


@nb.njit(forceinline=True, cache=True)
def boxes(out, at, start, stop, table, origin, place, width):  # type: ignore[no-untyped-def]
    """out[at + n] = sum over box n − start, whose first edge is `place`, for start ≤ n < stop (whole vectors)."""
    if width <= _TWO_TAPS:
        _boxes_2(out, at, start, stop, table, origin, place, width)
    else:
        _boxes_3(out, at, start, stop, table, origin, place, width)


@nb.njit(forceinline=True, cache=True)
def boxes_add(out, at, start, stop, table, origin, place, width):  # type: ignore[no-untyped-def]
    """The same, added to out[at + n]."""
    if width <= _TWO_TAPS:
        _add_2(out, at, start, stop, table, origin, place, width)
    else:
        _add_3(out, at, start, stop, table, origin, place, width)


@nb.njit(forceinline=True, cache=True)
def spread(out, at, start, stop, stride, columns, weights, table, origin, place, width):  # type: ignore[no-untyped-def]
    """out[at + i·stride + n] += weights[i] · (sum over box n − start), i < columns ≤ 4, start ≤ n < stop."""
    if width <= _TWO_TAPS:
        if columns == 3:
            _spread_32(out, at, start, stop, stride, weights, table, origin, place, width)
        elif columns == 2:
            _spread_22(out, at, start, stop, stride, weights, table, origin, place, width)
        elif columns == 4:
            _spread_42(out, at, start, stop, stride, weights, table, origin, place, width)
        else:
            _spread_12(out, at, start, stop, stride, weights, table, origin, place, width)
    elif columns == 3:
        _spread_33(out, at, start, stop, stride, weights, table, origin, place, width)
    elif columns == 2:
        _spread_23(out, at, start, stop, stride, weights, table, origin, place, width)
    elif columns == 4:
        _spread_43(out, at, start, stop, stride, weights, table, origin, place, width)
    else:
        _spread_13(out, at, start, stop, stride, weights, table, origin, place, width)


@nb.njit(forceinline=True, cache=True)
def blend(out, at, start, stop, stride, columns, weights, table, origin):  # type: ignore[no-untyped-def]
    """out[at + n] = Σ weights[i] · table[origin + i·stride + n], i < columns ≤ 4, start ≤ n < stop (whole vectors)."""
    if columns == 3:
        _blend_3(out, at, start, stop, stride, weights, table, origin)
    elif columns == 2:
        _blend_2(out, at, start, stop, stride, weights, table, origin)
    elif columns == 4:
        _blend_4(out, at, start, stop, stride, weights, table, origin)
    else:
        _blend_1(out, at, start, stop, stride, weights, table, origin)
