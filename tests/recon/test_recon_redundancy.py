"""Every ray counts once: gaps, Parker's weights, displaced detectors."""

import numpy as np
import pytest

from lampyris.model import GeometryError
from lampyris.recon.analytic.redundancy import angular_gaps, coverage_rad, displaced, half_fan, parker


def test_gaps_sum_to_the_period_and_even_views_share_evenly():
    gaps = angular_gaps(np.deg2rad(np.arange(7) * 360 / 7 + 400), 2 * np.pi)
    np.testing.assert_allclose(gaps, 2 * np.pi / 7)


def test_uneven_views_take_half_the_way_to_their_neighbours():
    """0°, 10°, 40° of 180°: (140 + 10)/2, (10 + 30)/2, (30 + 140)/2."""
    gaps = np.rad2deg(angular_gaps(np.deg2rad([0.0, 10.0, 40.0]), np.pi))
    np.testing.assert_allclose(gaps, [75.0, 20.0, 85.0])


def test_views_half_a_turn_apart_share_the_gap_of_parallel_rays():
    gaps = np.rad2deg(angular_gaps(np.deg2rad([0.0, 90.0, 180.0, 270.0]), np.pi))
    np.testing.assert_allclose(gaps, 45.0)
    ends = np.rad2deg(angular_gaps(np.deg2rad(np.linspace(0, 180, 7)), np.pi))
    np.testing.assert_allclose(ends, [15, 30, 30, 30, 30, 30, 15])


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("excess_deg", [0.0, 13.0, 60.0])
def test_parker_weights_of_the_two_measurements_of_a_ray_sum_to_one(sense, excess_deg):
    """(φ, γ) is seen again at φ + π − 2γ under −γ: on a fine raster the partner is read off by interpolation."""
    fan = np.linspace(-0.31, 0.31, 63)
    views = 4000
    span = np.pi + 2 * 0.31 + np.deg2rad(excess_deg)
    angle = 0.4 + sense * (np.arange(views) + 0.5) * span / views
    weight = parker(angle, fan).astype(np.float64)
    for column in (3, 20, 44, 58):
        for turn in (1, -1):
            partner = angle + turn * np.pi - 2 * fan[column]
            ordered, other = (angle, weight[:, 62 - column]) if sense > 0 else (angle[::-1], weight[::-1, 62 - column])
            seen = (partner > ordered[0]) & (partner < ordered[-1])
            if not seen.any():
                continue
            twice = weight[seen, column] + np.interp(partner[seen], ordered, other)
            np.testing.assert_allclose(twice, 1.0, atol=2e-3)
        alone = ~np.any([(np.abs(angle + t * np.pi - 2 * fan[column] - angle.mean()) < span / 2) for t in (1, -1)], 0)
        np.testing.assert_allclose(weight[alone, column], 1.0, atol=2e-3)


def test_a_scan_shorter_than_half_a_turn_and_the_fan_is_refused():
    with pytest.raises(GeometryError, match=r"needs 180° plus the fan, 220\.0°; the views cover 210\.0°"):
        parker(np.deg2rad(np.arange(210.0)), np.deg2rad(np.linspace(-20, 20, 41)))


def test_coverage_counts_the_last_view_s_own_step():
    assert coverage_rad(np.deg2rad(np.arange(0.0, 360.0, 2.5))) == pytest.approx(2 * np.pi)
    assert coverage_rad(np.deg2rad(-np.arange(0.0, 200.0, 0.5))) == pytest.approx(np.deg2rad(200))


@pytest.mark.parametrize("reach", [(4.0, 9.0), (9.0, 4.0)])
def test_weights_of_a_displaced_detector_sum_to_one_over_opposite_rays(reach):
    s = np.linspace(-9, 9, 181)
    weight = displaced(s, reach)
    np.testing.assert_allclose(weight + weight[::-1], 1.0, atol=1e-12)
    short_side = s < -4 if reach[0] == 4.0 else s > 4
    assert weight[short_side].max() < 1e-12


def test_a_detector_that_misses_the_middle_is_refused():
    with pytest.raises(GeometryError, match="must lie within"):
        displaced(np.linspace(1, 9, 9), (-1.0, 9.0))


def test_only_a_body_that_one_side_misses_makes_a_half_fan():
    assert half_fan((50.0, 100.0), 80.0)
    assert not half_fan((90.0, 100.0), 80.0)
    assert not half_fan((50.0, 51.0), 80.0)
