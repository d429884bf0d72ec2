"""Water beam hardening: water measures as water of one energy behind every column, bowtie or not."""

import numpy as np
import pytest

from lampyris.correct import correct
from lampyris.correct.beam_hardening import fan_angles_rad, water_curves
from lampyris.model import FocalSpotShift, Gantry, Geometry, Noise, RawScan, Spectrum, Step
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.bowtie import bowtie
from lampyris.physics.detector import Detector, detected_weights, water_attenuation_per_mm
from lampyris.physics.tube import monochromatic, tube_spectrum

CHAIN = (Step("dark_air"), Step("log"), Step("water_beam_hardening"))


def test_fan_angles_are_those_of_the_gantry():
    """(c − central)·|u|/SDD on the arc and its arctangent on a plane; quarter offset, any gantry angle, tilt, table."""
    for curved in (True, False):
        gantry = Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), curved, 2.6, 31.25, 0.0 if curved else 9.0)
        geometry = Geometry.circular(gantry, np.array([203.0, 11.0]), axial_mm=np.array([37.0, 40.0]))
        angle = (np.arange(61) - 31.25) * 2.9 / 949.0
        expected = angle if curved else np.arctan(angle)
        assert fan_angles_rad(geometry) == pytest.approx(expected, abs=1e-9)
    assert (fan_angles_rad(Geometry.parallel_beam(np.zeros(1), rows=2, columns=9, cell_mm=(1, 1))) == 0).all()


def test_a_flying_focal_spot_hardly_turns_the_fan(lopsided_gantry):
    """A spot moved by 0.001 rad turns the plane of source and axis with it; the columns by R/SDD of a milliradian."""
    still = Geometry.circular(lopsided_gantry, np.array([23.0]))
    flown = Geometry.circular(
        lopsided_gantry, np.array([23.0]), shift=FocalSpotShift.alternating(1, (0.001,), (0.6,), (0.2,))
    )
    assert fan_angles_rad(flown) == pytest.approx(fan_angles_rad(still), abs=1.5e-3)


def test_one_energy_needs_no_correction():
    """p = µL, so the thickness at node p is p/µ."""
    spectrum = monochromatic(71.3)
    mu = float(linear_attenuation_per_mm("water", 71.3))
    curve = water_curves(spectrum, np.zeros(1))[0]
    assert curve * mu == pytest.approx(np.arange(len(curve)) / 24, rel=1e-9)


def test_two_energies_match_the_closed_form():
    """−ln(a e^(−µ₁L) + (1−a) e^(−µ₂L)) at thicknesses that are no nodes, to the interpolation's 1e-5."""
    spectrum = Spectrum(np.array([45.0, 90.0]), np.array([3.0, 2.0]), np.array([45.0, 60.0]), 100.0)
    mu = linear_attenuation_per_mm("water", spectrum.energy_kev)
    share = 3 * 45 / (3 * 45 + 2 * 60)
    nodes = water_curves(spectrum, np.zeros(1))[0]
    for length in (3.7, 51.3, 233.1, 411.9):
        p = -np.log(share * np.exp(-mu[0] * length) + (1 - share) * np.exp(-mu[1] * length))
        assert np.interp(p * 24, np.arange(len(nodes)), nodes) == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("voltage_kv", [80.0, 120.0, 140.0])
@pytest.mark.parametrize("filter_name", [None, "large"])
def test_water_is_proportional_to_its_thickness_in_every_column(known, voltage_kv, filter_name):
    """Polychromatic counts through an elliptic body of water, behind bowtie and air: corrected integral = µ_ref·L to
    1e-4 + 1e-3 of itself (0.1 % is 1 HU); uncorrected it is off by several per cent."""
    scene = known((151.0, 103.0))
    length = scene.integrals / 0.0193
    shape = None if filter_name is None else bowtie(filter_name, 541.0)
    spectrum = Detector("gos", 1.4).watching(tube_spectrum(voltage_kv, bowtie=shape, distance_mm=541.0))
    weights = detected_weights(spectrum, fan_angles_rad(scene.geometry))
    mu = linear_attenuation_per_mm("water", spectrum.energy_kev)
    through = np.stack([(weights * np.exp(-mu * one[..., None])).sum(-1) for one in length])
    air = weights.sum(1)
    counts = 1e3 * through * (scene.exposure_mas / 2.5)[:, None, None]
    scan = RawScan(
        counts, scene.geometry, scene.exposure_mas, np.zeros((5, 233), np.float32),
        np.broadcast_to(1e3 * air, (1, 5, 233)).astype(np.float32), 2.5, spectrum=spectrum, noise=Noise(60.0, 0.0),
    )  # fmt: skip
    made = correct(scan, CHAIN)
    reference = water_attenuation_per_mm(spectrum)
    assert made.water_per_mm == pytest.approx(reference)
    assert np.abs(made.integrals - reference * length).max() < 1e-4 + 1e-3 * (reference * length).max()
    raw = correct(scan, CHAIN[:2])
    deep = length > 250
    assert (raw.integrals[deep] / (reference * length[deep])).mean() < 0.97


def test_noise_about_air_keeps_its_mean(known, rng):
    """Negative integrals go through the same slope as positive ones: a symmetric noise stays symmetric."""
    scene = known((10.0, 10.0), (400.0, 0.0))
    spectrum = tube_spectrum(120.0)
    noisy = rng.normal(scene.beam, 200.0 * np.sqrt(scene.exposure_mas)[:, None, None])
    made = correct(scene.scan(noisy, spectrum=spectrum, noise=Noise(0.02, 0.0)), CHAIN)
    air = made.integrals[scene.integrals == 0]
    assert (air < 0).mean() > 0.3
    assert abs(air.mean()) < 5 * air.std() / np.sqrt(air.size) + 1e-7


def test_beyond_the_table_the_curve_goes_on(known):
    """An integral of 17 and one of 18, past the last node at 16, keep a difference of their own."""
    from lampyris.correct.beam_hardening import WaterHardening

    spectrum = tube_spectrum(120.0)
    table = WaterHardening(water_curves(spectrum, np.zeros(1)) * 0.02, 0.02)
    integrals = np.array([[[15.5]], [[16.5]], [[17.5]]], np.float32)
    table.apply(integrals)
    assert np.diff(integrals.ravel())[1] == pytest.approx(np.diff(integrals.ravel())[0], rel=0.01)
