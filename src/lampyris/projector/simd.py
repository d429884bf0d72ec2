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
  out[at:] and 1 to out[at_seen:]; both sums are then zeroed

Offsets and bounds are int64; `position` and `step` float64, weights float32; step ≥ 0, and every position reached must
be ≥ 0. All work is done in whole vectors that begin on multiples of `LANES`: a run needs room from the multiple of 16
before its start to the one behind its stop, and no other thread may own that room (`interpolate_add` adds nothing to
the entries beside the run, `blend` and `average_add` treat them like the run). `LEAD` entries of a table before its
origin and `SLACK` behind the last one wanted must be readable; their values do not matter. Arrays from `aligned` are
fastest. Outputs may not overlap inputs, nor may an array reach one `prange` by two names (alone and in a tuple, say):
Numba promises LLVM that they differ.
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
LEAD, SLACK = 32, 34
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

    def store(self, value: Any, data: Any, index: Any) -> None:
        self.builder.store(value, self.address(data, index)).align = 4

    def increase(self, data: Any, index: Any, value: Any) -> None:
        self.store(self.add(self.load(data, index), value), data, index)

    def between(self, start: Any, stop: Any) -> Any:
        """Which lanes are in [start, stop)."""
        b = self.builder
        from_start = b.icmp_signed(">=", self.lane, self.splat(b.trunc(start, _i32)))
        return b.and_(from_start, b.icmp_signed("<", self.lane, self.splat(b.trunc(stop, _i32))))

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

    def gathered(self, table: Any, base: Any, index: Any, wanted: Any) -> tuple[Any, Any]:
        """The same, any index, loaded one by one where wanted; the other lanes mean nothing."""
        b = self.builder
        index = b.add(index, self.splat(b.trunc(base, _i32)))
        index = b.select(wanted, index, ir.Constant(self.ints, [0] * LANES))
        here = there = ir.Constant(self.floats, ir.Undefined)
        for lane in range(LANES):
            number = ir.Constant(_i32, lane)
            at = b.sext(b.extract_element(index, number), base.type)
            here = b.insert_element(here, b.load(b.gep(table, [at])), number)
            there = b.insert_element(there, b.load(b.gep(table, [b.add(at, ir.Constant(at.type, 1))])), number)
        return here, there

    def interpolated(self, table: Any, places: tuple[Any, Any, Any], wanted: Any, *, near: bool) -> Any:
        """The table at `places`, 0 where not wanted; `near` where the entries lie in two registers."""
        base, index, weight = places
        registers = near and instruction_set() != PORTABLE
        here, there = self.looked_up(table, base, index) if registers else self.gathered(table, base, index, wanted)
        value = self.add(here, self.mul(weight, self.builder.fsub(there, here)))
        return self.builder.select(wanted, value, ir.Constant(self.floats, [0.0] * LANES))


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


@intrinsic
def _blend(typing, out, at, rows, at_a, at_b, weight_a, weight_b):  # type: ignore[no-untyped-def] # noqa: ARG001
    signature = types.void(out, at, rows, at_a, at_b, weight_a, weight_b)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _Vector(builder)
        target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 2))
        left = vector.mul(vector.load(source, args[3]), vector.splat(args[5]))
        right = vector.mul(vector.load(source, args[4]), vector.splat(args[6]))
        vector.store(vector.add(left, right), target, args[1])
        return context.get_dummy_value()

    return signature, codegen


def _look_up(*, near: bool) -> Any:
    """One vector from each of the tables that begin at `origins`, its lanes [start, stop) added at `ats` + k."""

    @intrinsic
    def one(typing, out, ats, k, start, stop, table, origins, place, step):  # type: ignore[no-untyped-def] # noqa: ARG001
        signature = types.void(out, ats, k, start, stop, table, origins, place, step)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = _Vector(builder)
            target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 5))
            base, index, weight = vector.places(args[7], args[8])
            wanted = vector.between(args[3], args[4])
            for i in range(signature.args[1].count):
                at, origin = (builder.extract_value(args[j], i) for j in (1, 6))
                table = builder.gep(source, [origin])
                value = vector.interpolated(table, (base, index, weight), wanted, near=near)
                vector.increase(target, builder.add(at, args[2]), value)
            return context.get_dummy_value()

        return signature, codegen

    return one


_near, _far = _look_up(near=True), _look_up(near=False)


@intrinsic
def _average(typing, out, at, at_seen, sums, at_sum, at_weight):  # type: ignore[no-untyped-def] # noqa: ARG001
    signature = types.void(out, at, at_seen, sums, at_sum, at_weight)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _Vector(builder)
        target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3))
        zero, one, faintest = (ir.Constant(vector.floats, [value] * LANES) for value in (0.0, 1.0, FAINTEST))
        total, weight = vector.load(source, args[4]), vector.load(source, args[5])
        weighed = builder.fcmp_ordered(">", weight, faintest)
        mean = builder.fdiv(total, builder.select(weighed, weight, one))
        vector.increase(target, args[1], builder.select(weighed, mean, zero))
        vector.increase(target, args[2], builder.select(weighed, one, zero))
        vector.store(zero, source, args[4])
        vector.store(zero, source, args[5])
        return context.get_dummy_value()

    return signature, codegen


# ---- the runs


@nb.njit(forceinline=True, cache=True)
def blend(out, at, start, stop, rows, at_a, at_b, weight_a, weight_b):  # type: ignore[no-untyped-def]
    """out[at + j] = weight_a·rows[at_a + j] + weight_b·rows[at_b + j] for start ≤ j < stop."""
    j = start // LANES * LANES
    while j < stop:
        _blend(out, at + j, rows, at_a + j, at_b + j, weight_a, weight_b)
        j += LANES


@nb.njit(forceinline=True, cache=True)
def interpolate_add(out, ats, start, stop, table, origins, position, step):  # type: ignore[no-untyped-def]
    """out[ats[i] + k] += table[origins[i]:] read at position + k·step, linearly, for start ≤ k < stop and every i."""
    pitch, stride = np.float32(step), np.int64(step * LANES * _ONE)
    k = start // LANES * LANES
    place = np.int64((position + k * step) * _ONE)
    if step <= MAX_STEP:
        while k < stop:
            if start <= k and k + LANES <= stop:  # the constants let LLVM drop the mask
                _near(out, ats, k, 0, LANES, table, origins, place, pitch)
            else:
                _near(out, ats, k, start - k, stop - k, table, origins, place, pitch)
            place += stride
            k += LANES
    else:
        while k < stop:
            _far(out, ats, k, start - k, stop - k, table, origins, place, pitch)
            place += stride
            k += LANES


@nb.njit(forceinline=True, cache=True)
def average_add(out, at, at_seen, count, sums, at_sum, at_weight):  # type: ignore[no-untyped-def]
    """out[at + k] += sum/weight and out[at_seen + k] += 1 where weight > FAINTEST; both sums are zeroed; k < count."""
    for k in range(0, count, LANES):
        _average(out, at + k, at_seen + k, sums, at_sum + k, at_weight + k)
