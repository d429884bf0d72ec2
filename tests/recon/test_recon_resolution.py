"""Measured TTF against theory: a thin Gaussian wire, imaged on a fine raster, transformed at single frequencies."""

import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry, GridRequest, Projections, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Gaussian
from lampyris.recon import KERNELS, kernel, reconstruct

SIGMA_MM = 0.45
PLACE = (4.1, -2.7)
CELL_MM = (1.1, 1.3)
SOURCE_MM, DETECTOR_MM = 541.0, 949.0
STEP_MM = CELL_MM[1] * SOURCE_MM / DETECTOR_MM


def wire(geometry):
    shape = Gaussian((PLACE[0], 0.0, PLACE[1]), (SIGMA_MM, 4000.0, SIGMA_MM), 1.0)
    integrals = line_integrals(shape, geometry, 1.0)
    return Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry)


def response(geometry, name, frequency, thickness_mm, method="auto"):
    """|F(image)|/F(wire) at each frequency, mean over 24 directions; F(wire) = 2πσ²·exp(−2π²σ²f²)."""
    request = GridRequest(
        256, field_of_view_mm=25.6, centre_mm=PLACE, slice_thickness_mm=thickness_mm, first_mm=0.0, last_mm=0.0
    )
    volume = reconstruct(wire(geometry), Step.of(method), name, request)
    grid = volume.grid
    x = grid.position_mm(np.stack([np.zeros(256), np.zeros(256), np.arange(256)], 1))[:, 0] - PLACE[0]
    z = grid.position_mm(np.stack([np.zeros(256), np.arange(256), np.zeros(256)], 1))[:, 2] - PLACE[1]
    image = volume.values[0].astype(np.float64)
    found = []
    for f in frequency:
        waves = [
            np.exp(-2j * np.pi * f * np.sin(a) * z) @ image @ np.exp(-2j * np.pi * f * np.cos(a) * x)
            for a in np.arange(24) * np.pi / 24 + 0.1
        ]
        object_ = 2 * np.pi * SIGMA_MM**2 * np.exp(-2 * (np.pi * SIGMA_MM * f) ** 2)
        found.append(abs(np.mean(waves)) * 0.1**2 / object_)
    return np.array(found)


def parallel():
    return Geometry.parallel_beam(
        np.arange(480) * 0.375, rows=1, columns=121, cell_mm=(1.0, STEP_MM), central_column=60.25
    )


def fan(curved):
    gantry = Gantry(SOURCE_MM, DETECTOR_MM, 1, 121, CELL_MM, curved, None, 60.25)
    return Geometry.circular(gantry, 11.0 + np.arange(720) * 0.5)


def helix(shift=None, views_per_turn=720):
    gantry = Gantry(SOURCE_MM, DETECTOR_MM, 4, 121, CELL_MM, True, None, 60.25)
    return Geometry.helical(
        gantry, views=views_per_turn * 2, views_per_turn=views_per_turn, table_feed_mm=1.9, shift=shift
    )


BEAMS = {"parallel": (parallel(), 1.0), "fan": (fan(True), 0.6271), "flat fan": (fan(False), 0.6271)}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("beam", BEAMS)
def test_the_ttf_of_a_wire_is_theory_s_to_two_percent(beam, name):
    """Up to f50, to 2 % of the value at frequency 0; the rays are points, so there is no aperture."""
    geometry, thickness = BEAMS[beam]
    f50 = kernel(name).f50_per_mm(STEP_MM)
    frequency = f50 * np.array([0.05, 0.35, 0.7, 1.0])
    found = response(geometry, name, frequency, thickness)
    np.testing.assert_allclose(found, kernel(name).ttf(frequency, STEP_MM), atol=0.02)


@pytest.mark.parametrize("name", ["hann", "body", "lung"])
def test_rebinning_costs_a_helix_little_near_the_axis(name):
    """Near the axis rays lie close to the lattice: the cubic interpolations take less than 5 % up to f50."""
    frequency = kernel(name).f50_per_mm(STEP_MM) * np.array([0.05, 0.35, 0.7, 1.0])
    found = response(helix(), name, frequency, 0.6271)
    expected = kernel(name).ttf(frequency, STEP_MM)
    assert (found < expected + 0.02).all()
    assert (found > 0.95 * expected - 0.01).all()


def test_a_spot_flying_in_plane_keeps_the_resolution():
    """Two spots half a sample apart at the isocentre, each at the full rate of views: read as twice the columns."""
    half = STEP_MM / 2 / SOURCE_MM / (1 - SOURCE_MM / DETECTOR_MM)
    views = 720 * 2 * 2
    flying = helix(FocalSpotShift.alternating(views, (-half / 2, half / 2)), 1440)
    frequency = kernel("lung").f50_per_mm(STEP_MM) * np.array([0.35, 0.7, 1.0])
    resting = response(helix(), "lung", frequency, 0.6271)
    assert (response(flying, "lung", frequency, 0.6271) > resting - 0.02).all()


def test_a_quarter_offset_cancels_the_alias_of_a_wire():
    """A wire so thin that half its spectrum lies beyond Nyquist leaves alias streaks all over the image; over a full
    turn an offset of a quarter cell lets opposite views sample between each other, and the first alias cancels.

    What is left more than 8 mm from the wire must be less than a fifth of what a detector on the axis leaves.
    """
    thin = Gaussian((11.3, 0.0, 2.8), (0.2, 4000.0, 0.2), 1.0)
    request = GridRequest(128, 51.2, (11.3, 2.8), 0.6271, None, 0.0, 0.0)

    def streaks(central_column):
        gantry = Gantry(SOURCE_MM, DETECTOR_MM, 1, 101, CELL_MM, True, None, central_column)
        geometry = Geometry.circular(gantry, np.arange(1440) * 0.25)
        integrals = line_integrals(thin, geometry, 1.0)
        weights = np.broadcast_to(np.float32(1), integrals.shape)
        image = reconstruct(Projections(integrals, weights, geometry), Step.of("fbp"), "ramp", request).values[0]
        return image[np.hypot(*(np.mgrid[:128, :128] - 63.5)) * 0.4 > 8.0].std()

    assert streaks(50.25) < streaks(50.0) / 5
