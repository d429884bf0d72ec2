"""Vector primitives against numpy, on every instruction set that this host has, and how one is chosen."""

import os
import subprocess
import sys
from pathlib import Path

import numba as nb
import numpy as np
import pytest
from test_projector_backprojection import flat_scan, lopsided_grid
from test_projector_backprojection_helical import gantry, grid, scan

from lampyris.projector import backproject, simd
from lampyris.projector.backprojection import ConeParallelData, backproject_helical

ROUNDING = 3e-7  # a float32 sum of two products of numbers below 1
PLACE = 110 * 2.0**-23  # rounding of a float32 position within one vector, at the largest step used here


@nb.njit
def run_blend(out, at, start, stop, rows, at_a, at_b, weight_a, weight_b):
    simd.blend(out, at, start, stop, rows, at_a, at_b, weight_a, weight_b)


@nb.njit
def run_interpolate(out, ats, start, stop, table, origins, position, step):
    simd.interpolate_add(out, ats, start, stop, table, origins, position, step)


@nb.njit
def run_average(out, at, at_seen, count, sums, at_sum, at_weight):
    simd.average_add(out, at, at_seen, count, sums, at_sum, at_weight)


@pytest.fixture
def table(rng: np.random.Generator) -> np.ndarray:
    values = simd.aligned(1600)
    values[:] = rng.random(1600)
    return values


@pytest.mark.parametrize("step", [0.0, 0.31, 1.0, 1.37, 1.9999, 2.0, 2.0001, 2.5, 7.3])
@pytest.mark.parametrize(("start", "stop"), [(0, 16), (0, 48), (3, 4), (5, 16), (7, 39), (16, 33), (21, 21), (30, 101)])
def test_interpolation_adds_in_the_run_and_nowhere_else(
    step: float, start: int, stop: int, table: np.ndarray, rng: np.random.Generator
) -> None:
    """Two tables at the same places; steps on both sides of what two registers hold (2), runs that end anywhere."""
    out = simd.aligned(256)
    out[:] = rng.random(256)
    expected = out.astype(np.float64)
    k = np.arange(start, stop)
    position = 0.83 - min(start * step, 0.0)
    for at, origin in ((16, 40), (128, 820)):
        expected[at + k] += np.interp(position + k * step, np.arange(740), table[origin : origin + 740])
    run_interpolate(out, (16, 128), start, stop, table, (40, 820), position, step)
    np.testing.assert_allclose(out, expected, atol=ROUNDING + PLACE)


def test_a_long_run_does_not_drift(table: np.ndarray) -> None:
    """Positions are stepped in integers of 2⁻³²: after 1000 slices they are still right to float32."""
    out = simd.aligned(1024)
    run_interpolate(out, (0,), 0, 1000, table, (40,), 0.37, 1.2345678)
    expected = np.interp(0.37 + 1.2345678 * np.arange(1000), np.arange(1560), table[40:])
    np.testing.assert_allclose(out[:1000], expected, atol=ROUNDING + 32 * 2.0**-23)


def test_blend_mixes_two_rows(table: np.ndarray) -> None:
    out = simd.aligned(128)
    run_blend(out, 16, 16, 64, table, 11, 333, np.float32(0.3), np.float32(0.9))
    j = np.arange(16, 64)
    np.testing.assert_allclose(out[16 + j], 0.3 * table[11 + j] + 0.9 * table[333 + j], atol=ROUNDING)
    assert (out[:32] == 0).all()
    assert (out[80:] == 0).all()


def test_average_divides_where_there_is_weight_and_clears_the_sums() -> None:
    """By hand: 3/0.5 = 6; a weight of FAINTEST or less is none."""
    out, sums = simd.aligned(96), simd.aligned(64)
    sums[:4] = 3.0, 5.0, 7.0, 1.0
    sums[32:36] = 0.5, simd.FAINTEST, 0.0, 0.25
    out[:4] = 1.0
    for _ in range(2):
        run_average(out, 0, 48, 17, sums, 0, 32)
    np.testing.assert_array_equal(out[:4], [7.0, 1.0, 1.0, 5.0])
    np.testing.assert_array_equal(out[48:53], [1.0, 0.0, 0.0, 1.0, 0.0])
    assert (sums == 0).all()


def test_what_is_read_beside_the_run_does_not_matter(table: np.ndarray) -> None:
    """NaN in front of the origin and behind the last entry wanted stays there."""
    out = simd.aligned(64)
    table[:40], table[40 + 12 :] = np.nan, np.nan
    run_interpolate(out, (0,), 5, 15, table, (40,), 0.0, 0.77)
    np.testing.assert_allclose(
        out[5:15], np.interp(0.77 * np.arange(5, 15), np.arange(12), table[40:52]), atol=ROUNDING
    )
    assert (out[:5] == 0).all()
    assert (out[15:] == 0).all()


def test_aligned_arrays_start_on_a_cache_line_and_have_slack_behind() -> None:
    for shape in (1, 7, (3, 5), (2, 17, 3)):
        array = simd.aligned(shape)
        assert array.ctypes.data % 64 == 0
        assert array.base is not None
        assert array.base.size >= array.size + simd.SLACK
        assert array.flags.c_contiguous


def test_padding_goes_to_the_next_sixteen() -> None:
    assert [simd.padded(n) for n in (1, 15, 16, 17, 256)] == [16, 16, 16, 32, 256]


def elsewhere(code: str, **environment: str) -> str:
    """What another Python prints, whose Numba compiles for another processor."""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU_")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout.strip()


LEVEL = "from lampyris.projector import simd; print(simd.instruction_set(), simd.LANES)"


@pytest.fixture(scope="module")
def host() -> int:
    return int(elsewhere(LEVEL).split()[0])


@pytest.mark.parametrize(
    ("environment", "most"),
    [
        ({"NUMBA_CPU_NAME": "nehalem"}, simd.PORTABLE),
        ({"NUMBA_CPU_NAME": "generic"}, simd.PORTABLE),
        ({"NUMBA_CPU_NAME": "haswell"}, simd.AVX2),
        ({"NUMBA_CPU_NAME": "znver3"}, simd.AVX2),
        ({"NUMBA_CPU_NAME": "skylake-avx512"}, simd.AVX512),
        ({"NUMBA_CPU_FEATURES": "-avx512f,+avx2", "NUMBA_CPU_NAME": "haswell"}, simd.AVX2),
        ({"NUMBA_CPU_FEATURES": "-avx512f,-avx2,-avx", "NUMBA_CPU_NAME": "haswell"}, simd.PORTABLE),
    ],
)
def test_the_instruction_set_is_the_less_of_host_and_target(environment: dict[str, str], most: int, host: int) -> None:
    """Numba adds the host's features to a processor asked for by name alone; here the name decides."""
    level = min(host, most)
    lanes = {simd.PORTABLE: 4, simd.AVX2: 8, simd.AVX512: 16}[level]
    assert elsewhere(LEVEL, **environment) == f"{level} {lanes}"


def images() -> dict[str, np.ndarray]:
    """A lopsided scan through each kernel, compiled for whatever this process compiles for."""
    rng = np.random.default_rng(5)
    geometry, where = flat_scan(), scan(gantry())
    data = ConeParallelData(where, np.linspace(0.1, 1, where.rows, dtype=np.float32))
    data.store(rng.random(where.shape[1:], dtype=np.float32))
    helical = backproject_helical(data, grid())
    flat = backproject(rng.random(geometry.shape, dtype=np.float32), geometry, lopsided_grid())
    return {"flat": flat, "helical": helical.values, "seen": helical.seen}


@pytest.mark.parametrize("processor", ["haswell", "nehalem"])
def test_every_instruction_set_gives_the_same_image(processor: str, tmp_path: Path) -> None:
    """The kernels compiled for an older processor and for this one: only the order of rounding may differ."""
    code = "import sys, numpy; from test_projector_simd import images; numpy.savez('{}', **images())"
    elsewhere(code.format(tmp_path / "older.npz"), NUMBA_CPU_NAME=processor)
    older, here = np.load(tmp_path / "older.npz"), images()
    for each in ("flat", "helical"):
        np.testing.assert_allclose(older[each], here[each], atol=4e-6 * float(np.abs(here[each]).max()))
    np.testing.assert_array_equal(older["seen"], here["seen"])
