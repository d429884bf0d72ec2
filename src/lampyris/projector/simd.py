"""Runs of float32 along the axial index → blended, interpolated or accumulated runs, as LLVM vectors inside Numba.

Where the rotation axis is a lattice axis, a ray factors into a transaxial part (one column, blended of two neighbours)
and an axial part (a resampling with a constant step). With the axial index contiguous, the second needs one look-up in
registers for 16 results. Numba vectorises neither by itself (possible aliasing, data-dependent indices), so both are
written as LLVM vectors. See docs/decisions/0010-simd-in-numba.md.

For use inside `numba.njit` functions; arrays are one-dimensional, contiguous float32, runs are half open:

- ``blend(out, at, start, stop, rows, at_a, at_b, weight_a, weight_b)``:
  out[at + j] = weight_a·rows[at_a + j] + weight_b·rows[at_b + j]
- ``interpolate_add(out, ats, start, stop, table, origins, position, step)``:
  out[ats[i] + k] += table[origins[i]:] read linearly at position + k·step, for each i of two tuples of offsets: several
  tables in one array, read at the same places, added to several runs of another
- ``average_add(out, at, at_seen, count, sums, at_sum, at_weight)``: where weight > FAINTEST, sum/weight is added to
  out[at:] and 1 to out[at_seen:]; both sums are then zeroed; whole vectors: all four runs need room up to the next one

Offsets and bounds are int64; `position` and `step` float64, weights float32; step ≥ 0, and every position reached must
be ≥ 0. `SLACK` entries of an input behind the last one wanted must be readable (their values do not matter; arrays from
`aligned` have them behind their end). Nothing outside the run is written, and outputs may not overlap inputs. Runs that
begin and end on multiples of `LANES`, in arrays from `aligned`, are the fastest.
"""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from lampyris.model import Float32

PORTABLE, AVX2, AVX512 = 0, 1, 2
SLACK = 34
MAX_STEP = 2.0
"""Largest step for which the entries wanted by one vector lie within two registers; beyond it each is loaded."""

_ONE = 2.0**32
"""Positions are stepped as integers of this many parts: conversions would cost more than the look-up itself."""

FAINTEST = 1e-3
"""Sums of weights below this are rounding as much as they are weight: `average_add` takes them as none."""

_f32, _i32 = ir.FloatType(), ir.IntType(32)


def _widest(cpu: str, features: str) -> int:
    """What LLVM itself uses for wide vectors on this processor: asked by compiling two additions."""
    target = llvm.Target.from_default_triple()
    if not target.name.startswith("x86"):
        return PORTABLE
    module = ir.Module()
    for name, vector, add in (
        ("wide", ir.VectorType(_f32, 16), ir.IRBuilder.fadd),
        ("half", ir.VectorType(_i32, 8), ir.IRBuilder.add),
    ):
        pointer = vector.as_pointer()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer]), name)
        builder = ir.IRBuilder(function.append_basic_block())
        builder.store(add(builder, *(builder.load(each) for each in function.args)), function.args[0])
        builder.ret_void()
    machine = target.create_target_machine(cpu=cpu, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    return AVX512 if "%zmm" in assembly else AVX2 if "vpadd" in assembly and "%ymm" in assembly else PORTABLE


@cache
def instruction_set() -> int:
    """`AVX512`, `AVX2` or `PORTABLE`: what both this host and Numba's target have, settled once per process.

    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES can only lower it. A name alone means that processor's own features (Numba
    would add the host's). Numba's on-disk cache is keyed by the same name and features, so entries never mix.
    """
    _triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    levels = [_widest(llvm.get_host_cpu_name(), get_host_cpu_features()), _widest(cpu, features)]
    if config.CPU_NAME is not None and config.CPU_FEATURES is None:
        levels.append(_widest(cpu, ""))
    return min(levels)


LANES = {PORTABLE: 4, AVX2: 8, AVX512: 16}[instruction_set()]


def aligned(shape: int | tuple[int, ...]) -> Float32:
    """Zeros, float32, C order, whose first entry lies on a cache line of 64 bytes, with readable `SLACK` behind."""
    size = int(np.prod(shape))
    raw = np.zeros(size + 16 + SLACK, np.float32)
    skip = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[skip : skip + size].reshape(shape)


def padded(count: int) -> int:
    """`count` rounded up to whole cache lines of 16, so that neighbouring runs stay aligned."""
    return -(-count // 16) * 16


# ---- building blocks in LLVM's own terms; loads and stores may be unaligned, sums may be fused


class _Vector:
    """Vectors of `LANES` floats in a function under construction."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.floats = ir.VectorType(_f32, LANES)
        self.ints = ir.VectorType(_i32, LANES)
        self.lane = ir.Constant(self.ints, list(range(LANES)))

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_i32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(self.ints, [0] * LANES))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("fast",))

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("fast",))

    def address(self, data: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [index]), self.floats.as_pointer())

    def load(self, data: Any, index: Any) -> Any:
        value = self.builder.load(self.address(data, index))
        value.align = 4
        return value

    def call(self, name: str, *args: Any) -> Any:
        kind = ir.FunctionType(self.floats, [each.type for each in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def put(self, value: Any, data: Any, index: Any, count: Any, *, add: bool) -> None:
        """Store or add the first `count` lanes: a whole vector where all are wanted, singly at the end of a run."""
        b = self.builder
        scratch = cgutils.alloca_once(b, self.floats)
        with b.if_else(b.icmp_signed(">=", count, ir.Constant(count.type, LANES)), likely=True) as (whole, part):
            with whole:
                total = self.add(self.load(data, index), value) if add else value
                b.store(total, self.address(data, index)).align = 4
            with part:
                b.store(value, scratch)
                lanes = b.bitcast(scratch, _f32.as_pointer())
                with cgutils.for_range(b, count, intp=count.type) as loop:
                    target = b.gep(data, [b.add(index, loop.index)])
                    one = b.load(b.gep(lanes, [loop.index]))
                    b.store(b.fadd(b.load(target), one) if add else one, target)

    def places(self, place: Any, step: Any) -> tuple[Any, Any, Any]:
        """(base, index, weight of the entry behind base + index) at place·2⁻³² + lane·step."""
        b = self.builder
        base = b.ashr(place, ir.Constant(place.type, 32))
        # 24 bits are all a float32 keeps of the fraction
        bits = b.lshr(b.trunc(place, _i32), ir.Constant(_i32, 8))
        fraction = b.fmul(b.sitofp(bits, _f32), ir.Constant(_f32, 2.0**-24))
        position = self.add(self.mul(b.sitofp(self.lane, self.floats), self.splat(step)), self.splat(fraction))
        index = b.fptosi(position, self.ints)
        return base, index, b.fsub(position, b.sitofp(index, self.floats))

    def looked_up(self, table: Any, base: Any, index: Any) -> tuple[Any, Any]:
        """Entries base + index and base + index + 1, for index < 2·LANES − 1: out of two registers."""
        b = self.builder
        low = self.load(table, base)
        high = self.load(table, b.add(base, ir.Constant(base.type, LANES)))
        following = b.add(index, ir.Constant(self.ints, [1] * LANES))
        return self.pick(low, high, index), self.pick(low, high, following)

    def pick(self, low: Any, high: Any, index: Any) -> Any:
        if LANES == 16:
            return self.call("llvm.x86.avx512.vpermi2var.ps.512", low, index, high)
        from_low = self.call("llvm.x86.avx2.permps", low, index)
        from_high = self.call("llvm.x86.avx2.permps", high, index)
        last = ir.Constant(self.ints, [LANES - 1] * LANES)
        return self.builder.select(self.builder.icmp_signed(">", index, last), from_high, from_low)

    def gathered(self, table: Any, base: Any, index: Any, count: Any) -> tuple[Any, Any]:
        """The same, any index, loaded one by one; lanes from `count` on read entry `base` and mean nothing."""
        b = self.builder
        wanted = b.icmp_signed("<", self.lane, self.splat(b.trunc(count, _i32)))
        index = b.select(wanted, index, ir.Constant(self.ints, [0] * LANES))
        here = there = ir.Constant(self.floats, ir.Undefined)
        for lane in range(LANES):
            number = ir.Constant(_i32, lane)
            at = b.add(base, b.sext(b.extract_element(index, number), base.type))
            here = b.insert_element(here, b.load(b.gep(table, [at])), number)
            there = b.insert_element(there, b.load(b.gep(table, [b.add(at, ir.Constant(at.type, 1))])), number)
        return here, there

    def interpolated(self, table: Any, places: tuple[Any, Any, Any], count: Any, *, near: bool) -> Any:
        """The table at `places`; `near` where the entries wanted lie in two registers."""
        base, index, weight = places
        registers = near and instruction_set() != PORTABLE
        here, there = self.looked_up(table, base, index) if registers else self.gathered(table, base, index, count)
        return self.add(here, self.mul(weight, self.builder.fsub(there, here)))


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


@intrinsic
def _blend(typing, out, at, count, rows, at_a, at_b, weight_a, weight_b):  # type: ignore[no-untyped-def] # noqa: ARG001
    signature = types.void(out, at, count, rows, at_a, at_b, weight_a, weight_b)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _Vector(builder)
        target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3))
        left = vector.mul(vector.load(source, args[4]), vector.splat(args[6]))
        right = vector.mul(vector.load(source, args[5]), vector.splat(args[7]))
        vector.put(vector.add(left, right), target, args[1], args[2], add=False)
        return context.get_dummy_value()

    return signature, codegen


def _look_up(*, near: bool) -> Any:
    """One vector from each of the tables that begin at `origins`, read at the same places, added at `ats`."""

    @intrinsic
    def one(typing, out, ats, k, count, table, origins, place, step):  # type: ignore[no-untyped-def] # noqa: ARG001
        signature = types.void(out, ats, k, count, table, origins, place, step)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = _Vector(builder)
            target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 4))
            base, index, weight = vector.places(args[6], args[7])
            for i in range(signature.args[1].count):
                at, origin = (builder.extract_value(args[j], i) for j in (1, 5))
                places = builder.add(base, origin), index, weight
                value = vector.interpolated(source, places, args[3], near=near)
                vector.put(value, target, builder.add(at, args[2]), args[3], add=True)
            return context.get_dummy_value()

        return signature, codegen

    return one


@intrinsic
def _average(typing, out, at, at_seen, sums, at_sum, at_weight):  # type: ignore[no-untyped-def] # noqa: ARG001
    signature = types.void(out, at, at_seen, sums, at_sum, at_weight)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _Vector(builder)
        target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3))
        whole = ir.Constant(ir.IntType(64), LANES)
        zero, one, faintest = (ir.Constant(vector.floats, [value] * LANES) for value in (0.0, 1.0, FAINTEST))
        total, weight = vector.load(source, args[4]), vector.load(source, args[5])
        weighed = builder.fcmp_ordered(">", weight, faintest)
        mean = builder.fdiv(total, builder.select(weighed, weight, one))
        for value, place in ((mean, args[1]), (one, args[2])):
            vector.put(builder.select(weighed, value, zero), target, place, whole, add=True)
        for place in (args[4], args[5]):
            vector.put(zero, source, place, whole, add=False)
        return context.get_dummy_value()

    return signature, codegen


_near, _far = _look_up(near=True), _look_up(near=False)


# ---- the runs: whole vectors (the constant count lets LLVM drop the other case), then what is left


@nb.njit(forceinline=True, cache=True)
def blend(out, at, start, stop, rows, at_a, at_b, weight_a, weight_b):  # type: ignore[no-untyped-def]
    """out[at + j] = weight_a·rows[at_a + j] + weight_b·rows[at_b + j] for start ≤ j < stop."""
    j = start
    while j + LANES <= stop:
        _blend(out, at + j, LANES, rows, at_a + j, at_b + j, weight_a, weight_b)
        j += LANES
    if j < stop:
        _blend(out, at + j, stop - j, rows, at_a + j, at_b + j, weight_a, weight_b)


@nb.njit(forceinline=True, cache=True)
def interpolate_add(out, ats, start, stop, table, origins, position, step):  # type: ignore[no-untyped-def]
    """out[ats[i] + k] += table[origins[i]:] read at position + k·step, linearly, for start ≤ k < stop and every i."""
    pitch, stride = np.float32(step), np.int64(step * LANES * _ONE)
    place = np.int64((position + start * step) * _ONE)
    k = start
    if step <= MAX_STEP:
        while k + LANES <= stop:
            _near(out, ats, k, LANES, table, origins, place, pitch)
            place += stride
            k += LANES
        if k < stop:
            _near(out, ats, k, stop - k, table, origins, place, pitch)
    else:
        while k < stop:
            _far(out, ats, k, stop - k, table, origins, place, pitch)
            place += stride
            k += LANES


@nb.njit(forceinline=True, cache=True)
def average_add(out, at, at_seen, count, sums, at_sum, at_weight):  # type: ignore[no-untyped-def]
    """out[at + k] += sum/weight and out[at_seen + k] += 1 where weight > FAINTEST; both sums are zeroed; k < count."""
    for k in range(0, count, LANES):
        _average(out, at + k, at_seen + k, sums, at_sum + k, at_weight + k)
