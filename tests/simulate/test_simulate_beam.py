"""Few energies transmit as the whole spectrum; cells see the beam that geometry and bowtie leave them."""

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry
from lampyris.phantom import Ellipsoid, line_integrals
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.bowtie import bowtie
from lampyris.physics.detector import Detector, detected_weights
from lampyris.physics.tube import monochromatic, tube_spectrum
from lampyris.simulate import measure, optics, scanner
from lampyris.simulate.beam import rebin

FILTERS = (("Al", 6.0), ("Ti", 0.9))


def _seen(kv: float):
    return Detector().watching(tube_spectrum(kv, filtration=FILTERS, distance_mm=541.0, bowtie=bowtie("large", 541.0)))


@pytest.mark.parametrize(("kv", "most"), [(80, 20), (120, 12), (140, 12)])
def test_few_energies_transmit_as_the_whole_spectrum(kv, most):
    """Signal and second moment of a mixture that the search never looked at, to its tolerance of 1e−4."""
    spectrum = _seen(kv)
    names, thick = ("soft_tissue", "cortical_bone", "adipose"), np.array([173.0, 11.0, 44.0])
    nodes = rebin(spectrum, names, [400.0, 60.0, 200.0])
    assert len(nodes.energy_kev) <= most
    per_mm = np.stack([linear_attenuation_per_mm(name, spectrum.energy_kev) for name in names])
    whole = spectrum.photons_per_mas_mm2 * spectrum.response_kev * np.exp(-thick @ per_mm)
    few = nodes.signal_kev * np.exp(-thick @ nodes.per_mm)
    assert few.sum() == pytest.approx(whole.sum(), rel=1.5e-4)
    assert few @ nodes.energy_kev == pytest.approx(whole @ spectrum.energy_kev, rel=1.5e-4)


def test_an_absorption_edge_is_not_smoothed_over():
    """Iodine at 33.2 keV: 20 mm of 15 mg/ml in 100 mm of water."""
    spectrum = _seen(80)
    names, thick = ("iodine_water(15)", "water"), np.array([20.0, 100.0])
    nodes = rebin(spectrum, names, [30.0, 300.0])
    per_mm = np.stack([linear_attenuation_per_mm(name, spectrum.energy_kev) for name in names])
    whole = spectrum.photons_per_mas_mm2 * spectrum.response_kev * np.exp(-thick @ per_mm)
    few = nodes.signal_kev * np.exp(-thick @ nodes.per_mm)
    assert few.sum() == pytest.approx(whole.sum(), rel=1.5e-4)


def test_one_energy_stays_one_energy():
    nodes = rebin(monochromatic(71.0, 3e5), ("water",), [300.0])
    assert nodes.energy_kev.tolist() == [71.0]
    assert nodes.signal_kev.tolist() == [71.0 * 3e5]


def test_minus_log_of_a_monochromatic_beam_is_mu_times_length(lopsided_gantry, lopsided_helix):
    """float32 mantissas of the exponent (≤ 3) and of exp: 4e−7 each."""
    nodes = rebin(monochromatic(71.0, 3e5), ("water",), [300.0])
    beam = optics.beam(scanner("small"), monochromatic(71.0, 3e5), nodes, lopsided_helix, 5)
    ball = line_integrals(Ellipsoid((8, 4, -5), (66, 51, 43)), lopsided_helix.subset([5]))
    moments = np.empty((2, 4, *ball.shape[1:]), np.float32)
    measure.expect(ball[None], beam, 0.3, moments[0])
    measure.expect(np.zeros_like(ball[None]), beam, 0.3, moments[1])
    water = float(linear_attenuation_per_mm("water", 71.0))
    assert ball.max() > 80
    np.testing.assert_allclose(-np.log(moments[0, 0] / moments[1, 0]), water * ball[0], atol=2e-6)
    np.testing.assert_allclose(moments[1, 0], 71.0 * 3e5 * 0.3 * beam.area_mm2, rtol=1e-6)
    np.testing.assert_allclose(moments[0, 1] / moments[0, 0], 71.0, rtol=1e-6)
    np.testing.assert_allclose(moments[0, 3] * 71.0, moments[0, 0], rtol=1e-6)


def test_behind_the_bowtie_air_has_the_signal_of_the_full_spectrum():
    """Fan angles of an off-centre detector, hand-computed from its arc; cone angle through the 1/cos of the filter."""
    spectrum, gantry = _seen(120), Gantry(541.0, 949.0, 3, 41, (60.0, 11.0), True, 1.0, 17.25)
    geometry = Geometry.circular(gantry, np.array([33.0]))
    nodes = rebin(spectrum, ("water",), [300.0])
    beam = optics.beam(scanner("small"), spectrum, nodes, geometry, 0)
    moments = np.empty((4, 3, 41), np.float32)
    measure.expect(np.zeros((1, 1, 3, 41), np.float32), beam, 1.0, moments)
    fan = (np.arange(41) - 17.25) * 11.0 / 949.0
    for row, cone in ((1, 0.0), (2, np.arctan(60 / 949.0))):
        weights = detected_weights(spectrum, fan, cone_angle_rad=cone).sum(-1)
        area = 60 * 11 * (541 / 949) ** 2 * np.cos(cone) ** 3
        np.testing.assert_allclose(moments[0, row], weights * area, rtol=2e-4)


def test_the_solid_angle_of_flat_cells_falls_as_the_cube_of_the_cosine():
    gantry = Gantry(541.0, 949.0, 3, 5, (40.0, 90.0), False, 0.4, 1.2)
    geometry = Geometry.circular(gantry, np.array([71.0]))
    aside, up = (np.arange(5) - 1.2) * 90.0, (np.arange(3) - 0.4)[:, None] * 40.0
    cosine = 949 / np.sqrt(949**2 + aside**2 + up**2)
    expected = 40 * 90 * cosine * (541 * cosine / 949) ** 2
    np.testing.assert_allclose(optics.cell_area_mm2(geometry, 0, 541.0), expected, rtol=1e-9)


def test_subrays_average_to_the_middle_and_fill_spot_and_cell(lopsided_helix):
    machine = scanner("small")
    rays = optics.subrays(lopsided_helix, machine, 16)
    shifts = np.array([ray.source[7] - lopsided_helix.source[7] for ray in rays])
    assert np.abs(shifts.mean(0)).max() < 1e-9
    along = shifts @ (lopsided_helix.v[7] / 1.7)
    assert along.std() == pytest.approx(machine.focal_spot_mm[1] / np.sqrt(12), rel=0.2)  # a uniform spot
    cells = np.array([ray.cells_mm(7)[3, 20] for ray in rays]) - lopsided_helix.cells_mm(7)[3, 20]
    assert np.abs(cells.mean(0)).max() < 5e-3  # the sagitta of one cell on the arc: 2.9²/8/949 mm
    assert np.linalg.norm(cells, axis=1).max() < np.hypot(1.7, 2.9) / 2
    assert optics.subrays(lopsided_helix, machine, 1) == [lopsided_helix]
