"""Sums over boxes along the axis, against their definition; spreading over and blending from columns."""

import numba as nb
import numpy as np
import pytest

from lampyris.projector import footprint
from lampyris.projector.footprint import MAX_WIDTH, ONE
from lampyris.projector.simd import LANES, aligned


@nb.njit
def _boxes(out, start, stop, table, place, width):  # type: ignore[no-untyped-def]
    footprint.boxes(out, 3, start, stop, table, 5, place, width)


@nb.njit
def _boxes_add(out, start, stop, table, place, width):  # type: ignore[no-untyped-def]
    footprint.boxes_add(out, 3, start, stop, table, 5, place, width)


@nb.njit
def _spread(out, start, stop, columns, weights, table, place, width):  # type: ignore[no-untyped-def]
    footprint.spread(out, 7, start, stop, 200, columns, weights, table, 5, place, width)


@nb.njit
def _blend(out, start, stop, columns, weights, table):  # type: ignore[no-untyped-def]
    footprint.blend(out, 7, start, stop, 200, columns, weights, table, 11)


def integral(table: np.ndarray, x: np.ndarray) -> np.ndarray:
    """∫ from 0 to x of the function that is table[i] on [i, i + 1], in float64."""
    cumulated = np.concatenate([[0.0], np.cumsum(table.astype(np.float64))])
    return np.interp(x, np.arange(len(cumulated)), cumulated)


def sums(table: np.ndarray, place: float, width: float, count: int) -> np.ndarray:
    return np.diff(integral(table[5:], place + width * np.arange(count + 1)))


@pytest.fixture
def table(rng: np.random.Generator) -> np.ndarray:
    values = aligned(900)
    values[:] = rng.standard_normal(900)
    return values


@pytest.mark.parametrize("width", [0.07, 0.5, 0.93, 1.0, 1.01, 1.37, MAX_WIDTH])
def test_boxes_hold_the_overlap_of_every_entry(table: np.ndarray, width: float) -> None:
    """26 bits of position, of entries of order 1: 15·2⁻²⁶ each, and float32 sums of three."""
    for place in (0.0, 1.999, 37.61):
        out = aligned(400)
        stop = 9 * LANES
        _boxes(out, 0, stop, table, np.int64(place * ONE), np.int64(width * ONE))
        np.testing.assert_allclose(out[3 : 3 + stop], sums(table, place, width, stop), rtol=0, atol=3e-6)
        _boxes_add(out, 0, stop, table, np.int64(place * ONE), np.int64(width * ONE))
        np.testing.assert_allclose(out[3 : 3 + stop], 2 * sums(table, place, width, stop), rtol=0, atol=6e-6)
        assert not out[:3].any()
        assert not out[3 + stop :].any()


def test_a_long_run_of_boxes_does_not_drift(table: np.ndarray) -> None:
    """600 boxes of 1.37: the width's 2⁻³² adds up to 10⁻⁷, and no prefix sum loses the small among the large."""
    table += 1000.0
    out = aligned(800)
    stop = 592
    _boxes(out, 0, stop, table, np.int64(2.5 * ONE), np.int64(1.37 * ONE))
    np.testing.assert_allclose(out[3 : 3 + stop], sums(table, 2.5, 1.37, stop), rtol=1e-6)


@pytest.mark.parametrize("width", [0.8, 1.6])
@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_spread_adds_the_boxes_to_each_column_and_to_no_other(table: np.ndarray, width: float, columns: int) -> None:
    weights = np.array([0.31, 0.72, 1.3, 0.05], np.float32)
    out = aligned(1000)
    out[:] = 0.25
    start, stop = 2 * LANES, 5 * LANES
    _spread(out, start, stop, columns, tuple(weights), table, np.int64(1.3 * ONE), np.int64(width * ONE))
    expected = np.full(1000, 0.25)
    for i in range(columns):
        at = 7 + 200 * i
        expected[at + start : at + stop] += weights[i] * sums(table, 1.3, width, stop - start)
    np.testing.assert_allclose(out, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_blend_is_the_weighted_sum_of_columns(table: np.ndarray, columns: int) -> None:
    weights = np.array([0.31, 0.72, 1.3, 0.05], np.float32)
    out = aligned(400)
    start, stop = LANES, 4 * LANES
    _blend(out, start, stop, columns, tuple(weights), table)
    n = np.arange(start, stop)
    expected = sum(weights[i] * table[11 + 200 * i + n] for i in range(columns))
    np.testing.assert_allclose(out[7 + start : 7 + stop], expected, rtol=0, atol=2e-6)
    assert not out[: 7 + start].any()
    assert not out[7 + stop :].any()
