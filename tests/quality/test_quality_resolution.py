"""Transfer functions against edges, wires and beads blurred by a Gaussian, where everything is known in closed form."""

import numpy as np
import pytest
from scipy import special, stats

from lampyris.model import Grid, InputError, Volume
from lampyris.quality import resolution
from lampyris.quality.regions import Cylinder

GRID = Grid.centred((5, 101, 113), (1.3, 0.47, 0.47), (3.1, 2.0, -7.7))
PLACE = (3.27, 2.0, -7.51)
"""Off every voxel centre."""


def distances(grid: Grid = GRID, place: tuple[float, float, float] = PLACE) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    points = grid.position_mm(index)
    return np.hypot(points[..., 0] - place[0], points[..., 2] - place[2])


def rod(radius_mm: float, sigma_mm: float, contrast: float = 300.0) -> np.ndarray:
    """A disc blurred by a Gaussian, exactly: P(|X| < R) of a 2-D normal about r is a non-central χ² distribution."""
    return contrast * stats.ncx2.cdf((radius_mm / sigma_mm) ** 2, 2, (distances() / sigma_mm) ** 2)


def volume(values: np.ndarray, grid: Grid = GRID) -> Volume:
    return Volume(values.astype(np.float32), grid, "HU")


@pytest.mark.parametrize("sigma_mm", [0.4, 0.6, 0.9])
@pytest.mark.parametrize("radius_mm", [5.0, 12.5])
def test_a_gaussian_edge_has_a_gaussian_transfer_function(radius_mm: float, sigma_mm: float) -> None:
    """f50 = 0.1874/σ and f10 = √(ln 10/2)/(πσ) within the reference's 2 %, and the whole curve to 0.01."""
    found = resolution.ttf(volume(100 + rod(radius_mm, sigma_mm)), Cylinder((3.1, 2.0, -7.7), radius_mm, 4.0))
    assert found.frequency_at(0.5) == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / sigma_mm, rel=0.02)
    assert found.frequency_at(0.1) == pytest.approx(np.sqrt(np.log(10) / 2) / np.pi / sigma_mm, rel=0.02)
    np.testing.assert_allclose(
        found.transfer, np.exp(-2 * (np.pi * sigma_mm * found.frequency_per_mm) ** 2), atol=0.012
    )
    np.testing.assert_allclose(found.centre_mm, PLACE, atol=0.005)
    assert found.contrast == pytest.approx(300, rel=0.005)
    assert found.slices == 3


def test_a_dark_rod_has_the_same_transfer_function() -> None:
    found = resolution.ttf(volume(20 + rod(8.0, 0.6, -900.0)), Cylinder((3.1, 2.0, -7.7), 8.0, 4.0))
    assert found.frequency_at(0.5) == pytest.approx(0.18739 / 0.6, rel=0.02)
    assert found.contrast == pytest.approx(-900, rel=0.005)


def test_noise_moves_f50_by_less_than_five_percent_at_cnr_15(rng: np.random.Generator) -> None:
    noisy = 100 + rod(12.5, 0.6) + 15 * rng.standard_normal(GRID.shape)
    found = resolution.ttf(volume(noisy), Cylinder((3.1, 2.0, -7.7), 12.5, 4.0))
    assert found.cnr == pytest.approx(20, rel=0.05)
    assert found.frequency_at(0.5) == pytest.approx(0.18739 / 0.6, rel=0.05)


def test_a_rod_drowned_in_noise_is_refused(rng: np.random.Generator) -> None:
    noisy = 100 + rod(12.5, 0.6) + 60 * rng.standard_normal(GRID.shape)
    with pytest.raises(InputError, match=r"CNR·√n is \d\.\d .* expected at least 15"):
        resolution.ttf(volume(noisy), Cylinder((3.1, 2.0, -7.7), 12.5, 4.0))


def test_rods_that_cannot_be_measured_are_refused() -> None:
    image = volume(rod(12.5, 0.6))
    with pytest.raises(InputError, match=r"leans 45.0°"):
        resolution.ttf(image, Cylinder((3.1, 2.0, -7.7), 12.5, 4.0, (0.0, 1.0, 1.0)))
    with pytest.raises(InputError, match="wrong frame or place"):
        resolution.ttf(image, Cylinder((13.1, 2.0, -7.7), 12.5, 4.0))
    with pytest.raises(InputError, match="too thin for its edge"):
        resolution.ttf(image, Cylinder((3.1, 2.0, -7.7), 0.5, 4.0))
    with pytest.raises(InputError, match=r"no rod of 6\.0 mm found"):
        resolution.ttf(image, Cylinder((3.1, 2.0, -7.7), 6.0, 4.0, (0.0, 1.0, 0.0)), margin_mm=9.0)
    with pytest.raises(InputError, match="expected 4 σ"):
        resolution.ttf(volume(rod(5.0, 1.5)), Cylinder((3.1, 2.0, -7.7), 5.0, 4.0))
    with pytest.raises(InputError, match="does not fall to"):
        resolution.ttf(image, Cylinder((3.1, 2.0, -7.7), 12.5, 4.0)).frequency_at(1e-9)


@pytest.mark.parametrize("sigma_mm", [0.5, 0.8])
def test_a_gaussian_spot_has_a_gaussian_transfer_function(sigma_mm: float) -> None:
    spot = 40 + 500 * np.exp(-(distances() ** 2) / (2 * sigma_mm**2))
    found = resolution.wire(volume(spot), Cylinder((3.1, 2.0, -7.7), 2.0, 4.0))
    assert found.frequency_at(0.5) == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / sigma_mm, rel=0.02)
    np.testing.assert_allclose(found.centre_mm, PLACE, atol=0.005)


def test_a_thick_wire_is_divided_out() -> None:
    """A wire of 0.5 mm radius blurred by σ 0.5 mm lowers f50 by about 6 %; with its radius told, by less than 2 %."""
    image = volume(rod(0.5, 0.5))
    place = Cylinder((3.1, 2.0, -7.7), 2.0, 4.0)
    truth = 0.18739 / 0.5
    assert resolution.wire(image, place).frequency_at(0.5) < 0.96 * truth
    assert resolution.wire(image, place, wire_radius_mm=0.5).frequency_at(0.5) == pytest.approx(truth, rel=0.02)


def test_no_wire_is_no_figure(rng: np.random.Generator) -> None:
    place = Cylinder((3.1, 2.0, -7.7), 2.0, 4.0)
    with pytest.raises(InputError, match="flat within"):
        resolution.wire(volume(np.zeros(GRID.shape)), place)
    with pytest.raises(InputError, match=r"CNR|no wire"):
        resolution.wire(volume(10 * rng.standard_normal(GRID.shape)), place)


def bead(sigma_mm: float, increment_mm: float, contrast: float) -> Volume:
    grid = Grid.centred((41, 23, 21), (increment_mm, 0.5, 0.5), (1.0, 3.3, -2.0))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    offset = grid.position_mm(index) - np.array([1.2, 3.13, -2.1])
    along = np.exp(-(offset[..., 1] ** 2) / (2 * sigma_mm**2))
    across = np.exp(-(offset[..., 0] ** 2 + offset[..., 2] ** 2) / 2)
    return volume(30 + contrast * along * across, grid)


@pytest.mark.parametrize("contrast", [800.0, -700.0])
def test_a_bead_shows_the_width_of_a_slice(contrast: float) -> None:
    """FWHM = 2√(2 ln 2) σ and FWTM = 2√(2 ln 10) σ; linear interpolation at 0.3 mm costs below 1 %."""
    found = resolution.slice_profile(bead(0.7, 0.3, contrast), (1.2, 3.1, -2.1), 0.8, reach_mm=5.5)
    assert found.fwhm_mm == pytest.approx(2 * np.sqrt(2 * np.log(2)) * 0.7, rel=0.01)
    assert found.fwtm_mm == pytest.approx(2 * np.sqrt(2 * np.log(10)) * 0.7, rel=0.015)
    assert found.position_mm[found.signal.argmax()] == pytest.approx(0.03, abs=0.16)


def test_a_bead_between_coarse_slices_is_refused() -> None:
    with pytest.raises(InputError, match="smaller increment"):
        resolution.slice_profile(bead(0.4, 1.0, 800.0), (1.2, 3.1, -2.1), 0.8, reach_mm=8.0)
    with pytest.raises(InputError, match="at least 7"):
        resolution.slice_profile(bead(0.7, 0.3, 800.0), (1.2, 3.1, -2.1), 0.8, reach_mm=0.7)


def test_the_fitted_edge_is_the_error_function() -> None:
    """A large rod's edge is ½ erfc(x/√2σ): the non-central χ² used above agrees with it to the curvature σ/R."""
    r = distances()
    edge = 0.5 * special.erfc((r - 12.5) / (np.sqrt(2) * 0.4))
    assert np.abs(edge - rod(12.5, 0.4, 1.0)).max() < 0.4 / 12.5
