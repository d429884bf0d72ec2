"""Shapes: chords computed by hand, against sums over points, and in every kind of geometry."""

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, InputError
from lampyris.phantom import (
    Box,
    Clipped,
    Cone,
    Cylinder,
    Ellipsoid,
    Gaussian,
    HalfSpace,
    Part,
    Phantom,
    Shape,
    line_integrals,
    path_lengths_mm,
)

TURNED = (np.cos(0.3), 0.0, -np.sin(0.3))
SHAPES: dict[str, Shape] = {
    "ellipsoid": Ellipsoid((5, 1, -7), (20, 6, 11), TURNED),
    "cylinder": Cylinder((5, 1, -7), (20, 11), 9, (0.2, 1, 0.4), (1, 0, 0.2)),
    "lying cylinder": Cylinder((5, 1, -7), (4, 3), 60, (1, 0.1, 0)),
    "box": Box((-6, 2, 4), (30, 8, 14), TURNED),
    "frustum": Cone((-10, -3, 3), (14, 5, -8), 2, 9),
    "cone": Cone((-10, -3, 3), (14, 5, -8), 6, 0),
    "blob": Gaussian((5, 1, -7), (10, 3, 6), 0.7, TURNED),
    "clipped": Ellipsoid((5, 1, -7), (20, 6, 11)).clipped(
        HalfSpace((5, 1, -5), (0.3, 0.2, 1)), Cylinder((0, 0, 0), (15, 14), 80)
    ),
}


@pytest.mark.parametrize(
    ("shape", "origin", "direction", "chord"),
    [
        (Ellipsoid((3, -2, 5), (7.5, 7.5, 7.5)), (-90, -2, 9.5), (1, 0, 0), 12.0),  # 2√(7.5² − 4.5²)
        (Ellipsoid((3, -2, 5), (7.5, 4, 2)), (3, -2, 60), (0, 0, -1), 4.0),
        (Ellipsoid((3, -2, 5), (7.5, 4, 2)), (3, 2.1, 60), (0, 0, -1), 0.0),
        (Cylinder((1, 2, 3), (5, 3), 14), (1, 50, 3), (0, -1, 0), 14.0),
        (Cylinder((1, 2, 3), (5, 3), 14), (7.1, 50, 3), (0, -1, 0), 0.0),
        (Cylinder((1, 2, 3), (5, 3), 14), (1, -25.75, 40), (0, 0.6, -0.8), 7.5),  # bent out of the axis by cos = 0.8
        (Cylinder((1, 2, 3), (5, 3), 14, first=(0, 0, 1)), (1, 2, 40), (0, 0, -1), 10.0),
        (Box((0, 0, 0), (3, 5, 4)), (-30, 0.2, -40), (0.6, 0, 0.8), 5.0),  # the diagonal of 3 × 4
        (Cone((0, 0, 0), (0, 0, 30), 2, 8), (-50, 0, 15), (1, 0, 0), 10.0),
        (Cone((0, 0, 0), (0, 0, 30), 2, 8), (0, 0, -9), (0, 0, 1), 30.0),
        (Cone((0, 0, 0), (0, 0, 30), 0, 6), (0.0, 0, -9), (0, 0, 1), 30.0),
        (Cone((0, 0, 0), (0, 0, 30), 0, 6), (3, 0, -9), (0, 0, 1), 15.0),
        (Cone((0, 0, 0), (0, 0, 30), 0, 6), (-50, 0, -10), (1, 0, 0), 0.0),  # the other nappe is no part of it
        (Gaussian((1, 2, 3), (2, 3, 5), 0.5), (1, 2, 30), (0, 0, -1), 0.5 * np.sqrt(2 * np.pi) * 5),
        (Gaussian((1, 2, 3), (2, 3, 5), 0.5), (5, 2, 30), (0, 0, -1), 0.5 * np.sqrt(2 * np.pi) * 5 * np.exp(-2)),
        (Ellipsoid((0, 0, 0), (6, 6, 6)).clipped(HalfSpace((0, 0, 2), (0, 0, 5))), (0, 0, 50), (0, 0, -1), 8.0),
    ],
)
def test_a_chord_is_what_is_computed_by_hand(shape, origin, direction, chord):
    assert shape.chord_mm(np.array(origin, float), np.array(direction, float)) == pytest.approx(
        chord, abs=1e-6
    )  # a double root's rounding is √ε of the distance


@pytest.mark.parametrize("name", SHAPES)
def test_a_chord_is_the_sum_of_the_points_on_its_line(name, rng):
    """Midpoint sums along random lines; a solid's two surfaces are each met to half a step at most."""
    shape, step = SHAPES[name], 0.004
    through = rng.uniform((-9, -9, -11), (9, 9, 7), (25, 3))
    way = rng.standard_normal((25, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    t = np.arange(-95, 95, step) + step / 2
    points = through[:, None] + t[:, None] * way[:, None, :]
    summed = shape.density(points).sum(1) * step
    chord = shape.chord_mm(through, way)
    assert (chord > 1).sum() > 5
    np.testing.assert_allclose(chord, summed, atol=1.01 * step)


def _geometries(helix: Geometry) -> dict[str, Geometry]:
    flat = Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), False, 2.6, 31.25, tilt_deg=7.0)
    parallel = Geometry.parallel_beam(
        np.arange(11.0, 180, 25.0), rows=7, columns=61, cell_mm=(1.3, 2.1), central_row=2.2, central_column=28.2
    )
    return {
        "helix": helix,
        "flat": Geometry.circular(flat, np.arange(0, 360, 50.0), axial_mm=3.0),
        "parallel": parallel,
    }


@pytest.mark.parametrize("kind", ["helix", "flat", "parallel"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_gives_the_chord_of_every_ray(name, kind, lopsided_helix):
    """The bounding bodies lose no ray; float32 rounds at 6e−8 of at most 70 mm."""
    geometry = _geometries(lopsided_helix)[kind]
    expected = np.stack([SHAPES[name].chord_mm(*geometry.rays(view)) for view in range(geometry.views)])
    assert expected.max() > 5
    np.testing.assert_allclose(line_integrals(SHAPES[name], geometry), expected, atol=5e-6)


def test_a_hand_computed_cell_sees_a_speck():
    """Source above at (0, 0, 541); the cell of column 30, row 2 of a flat detector stands at (2.9, −1.02, −408)."""
    gantry = Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), False, 2.6, 29.0)
    geometry = Geometry.circular(gantry, np.array([0.0]))
    at = 0.6  # of the way from source to cell
    speck = Ellipsoid((at * 2.9, at * -1.02, 541 - at * 949), (0.2, 0.2, 0.2))
    seen = line_integrals(speck, geometry)[0]
    assert np.argwhere(seen > 0).tolist() == [[2, 30]]
    assert seen[2, 30] == pytest.approx(0.4, abs=1e-6)


def test_parallel_rays_conserve_the_mass_of_a_blob():
    """Σ integrals × cell area = amplitude·(2π)^1.5·σ₁σ₂σ₃; a Gaussian sampled twice per σ sums to 1e−8 of that."""
    blob = Gaussian((3, -2, 6), (7, 5, 9), 0.8, TURNED)
    geometry = Geometry.parallel_beam(np.array([17.0, 73.0, 141.0]), rows=61, columns=83, cell_mm=(1.9, 2.3))
    total = line_integrals(blob, geometry).sum(axis=(1, 2), dtype=np.float64) * 1.9 * 2.3
    np.testing.assert_allclose(total, 0.8 * (2 * np.pi) ** 1.5 * 7 * 5 * 9, rtol=1e-6)


def test_rays_end_at_the_cell_and_parallel_rays_do_not():
    behind = Ellipsoid((0, 0, -600), (50, 50, 50))  # beyond the detector at z = −408
    fan = Geometry.circular(Gantry(541.0, 949.0, 3, 5, (1.7, 2.9)), np.array([0.0]))
    parallel = Geometry.parallel_beam(np.array([0.0]), rows=3, columns=5, cell_mm=(1.7, 2.9))
    assert line_integrals(behind, fan).max() == 0
    assert line_integrals(behind, parallel).min() > 99


def test_signed_sums_give_each_material_its_own_length(lopsided_helix):
    body, hole = Ellipsoid((2, 3, -1), (50, 60, 40)), Ellipsoid((8, 1, 5), (9, 8, 7))
    phantom = Phantom((Part(body, "water"), Part(hole, "pmma", "water")))
    lengths = path_lengths_mm(phantom, lopsided_helix, slice(10, 30))
    part = lopsided_helix.subset(slice(10, 30))
    np.testing.assert_allclose(lengths["pmma"], line_integrals(hole, part), atol=1e-6)
    np.testing.assert_allclose(lengths["water"] + lengths["pmma"], line_integrals(body, part), atol=2e-5)
    total = line_integrals(phantom, part, {"water": 0.02, "pmma": 0.023})
    np.testing.assert_allclose(total, 0.02 * lengths["water"] + 0.023 * lengths["pmma"], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ellipsoid((0, 0, 0), (3, 0, 2)).primitives(), "expected finite numbers > 0"),
        (lambda: Ellipsoid((0, 0), (3, 1, 2)).primitives(), "not a point"),
        (lambda: Ellipsoid((0, 0, 0), (3, 1, 2), (1, 0, 0), (0.5, 1, 0)).primitives(), "not perpendicular"),
        (lambda: Cylinder((0, 0, 0), (3, 1), 2, (0, 0, 0)).primitives(), "no direction"),
        (lambda: Cone((0, 0, 0), (0, 0, 0), 3, 1).primitives(), "cone of length 0"),
        (
            lambda: Clipped(Gaussian((0, 0, 0), (1, 1, 1)), (HalfSpace((0, 0, 0), (0, 0, 1)),)).primitives(),
            "no surface",
        ),
        (lambda: Phantom(()), "at least one part"),
        (lambda: Phantom((Part(Ellipsoid((0, 0, 0), (3, 1, 2)), "pmma", "water"),)), "no part is made of that"),
    ],
)
def test_impossible_shapes_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_phantom_wants_one_attenuation_for_each_material(lopsided_helix):
    body = Ellipsoid((2, 3, -1), (50, 60, 40))
    with pytest.raises(InputError, match="one attenuation for each"):
        line_integrals(Phantom((Part(body, "water"),)), lopsided_helix, 0.02)
    with pytest.raises(InputError, match="no attenuation given for 'water'"):
        line_integrals(Phantom((Part(body, "water"),)), lopsided_helix, {"pmma": 0.02})
    with pytest.raises(InputError, match="one shape needs one"):
        line_integrals(body, lopsided_helix, {"pmma": 0.02})
