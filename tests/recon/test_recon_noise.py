"""Noise from one scan: shaken and perturbed scans against theory and against many scans of the same object."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest
from scipy import ndimage

from lampyris.model import (
    Applied,
    FocalSpotShift,
    Gantry,
    Geometry,
    Grid,
    GridRequest,
    InputError,
    Projections,
    Quanta,
    Step,
)
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.projector import HOST
from lampyris.recon import (
    deviation,
    deviation_of_replicates,
    is_linear,
    kernel,
    noise,
    noise_known,
    perturbed,
    reconstruct,
)
from lampyris.recon.noise import CLIPPED_SQUARE, NORMAL_MEDIAN_SQUARE, SHAKE, pooled, shaken

WATER = 0.0193
AUTO = Step("auto")
BODY = (
    (Cylinder((9.0, 0.0, -6.0), (62.0, 51.0), 400.0), WATER),
    (Cylinder((31.0, 0.0, 14.0), (9.0, 9.0), 400.0), 0.25 * WATER),
    (Cylinder((-22.0, 0.0, -29.0), (7.0, 7.0), 400.0), -WATER),
    (Cylinder((40.0, 0.0, -30.0), (3.0, 3.0), 400.0), WATER),
)
"""An off-centre elliptic trunk with soft tissue, air and bone in it."""
KNOWN = (Applied.of("log", noise="of the scan"),)

ROW = Gantry(541.0, 949.0, 1, 271, (1.7, 1.45), True, None, 135.25)
STACK = Gantry(541.0, 949.0, 6, 271, (1.7, 1.45), True, 2.6, 135.25)
SCANS = {
    "fan, odd number of views": (Geometry.circular(ROW, 23.0 + np.arange(601) * 360 / 601), 0.97),
    "short scan": (Geometry.circular(ROW, 23.0 - np.arange(380) * 0.6), 0.97),
    "cone beam": (Geometry.circular(STACK, 23.0 + np.arange(501) * 360 / 501, axial_mm=2.0), 1.0),
    "helix": (Geometry.helical(STACK, views=801, views_per_turn=500, table_feed_mm=-4.5), 1.0),
}


def request(thickness):
    """One slice, where every scan has one."""
    place = {} if thickness < 1 else {"first_mm": 1.3, "last_mm": 1.3}
    return GridRequest(96, 140.0, (9.0, -6.0), thickness, **place)


def clean(geometry):
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in BODY:
        integrals += line_integrals(shape, geometry, per_mm)
    quanta = 4e4 * np.exp(-integrals)
    return Projections(integrals, quanta.astype(np.float32), geometry, water_per_mm=WATER, history=KNOWN)


def noisy(scan, rng):
    added = rng.standard_normal(scan.integrals.shape, np.float32) / np.sqrt(scan.weights)
    return replace(scan, integrals=scan.integrals + added)


def inside(grid, margin=6.0):
    """(rows, columns) within the trunk."""
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]]
    x = grid.first_voxel_mm[0] + columns * grid.spacing_mm[2]
    z = grid.first_voxel_mm[2] - rows * grid.spacing_mm[1]
    return ((x - 9) / (62 - margin)) ** 2 + ((z + 6) / (51 - margin)) ** 2 < 1


def empirical(images, side=9):
    """SD over the seeds, its square averaged over all slices and `side`² pixels: the relative error of each value is
    about 1/√(2·(seeds − 1)·independent pixels), 3 … 4 % here."""
    variance = np.var(np.stack(images), axis=0, ddof=1).mean(axis=0)
    return np.sqrt(ndimage.uniform_filter(variance, side))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if each[1] < 1 else pytest.mark.slow) for name, each in SCANS.items()]
)
def test_the_noise_of_one_scan_is_that_of_many(name, rng):
    """Sixteen scans of the same object. The estimate's own error is 1/√(2n), n ≈ 100 … 200 independent points of its
    3³ blocks: 5 … 7 %; with the empirical one's 4 %, nine voxels in ten lie within 15 %, the mean within 7 %."""
    geometry, thickness = SCANS[name]
    scan = clean(geometry)
    images = [reconstruct(noisy(scan, rng), AUTO, "hann", request(thickness)) for _ in range(16)]
    like = images[0].grid
    one = noisy(scan, rng)
    image = reconstruct(one, AUTO, "hann", request(thickness))
    told = deviation(one, AUTO, "hann", request(thickness), like, reconstruct=reconstruct, image=image)
    assert told.shape == like.shape
    assert told.dtype == np.float32
    ratio = (told.mean(axis=0) / empirical([one.values for one in images]))[inside(like)]
    assert ratio.mean() == pytest.approx(1.0, abs=0.07)
    assert np.mean(np.abs(ratio - 1) < 0.15) > 0.85


def test_the_noise_agrees_with_theory():
    """White noise σ of N parallel views: var f = π²σ²/N · 2Δ∫f²A²(2 + cos 2πfΔ)/3 df, the last the mean power that
    linear interpolation leaves (Kak and Slaney 1988, section 5.2). In 1/mm, as no water is known."""
    geometry = Geometry.parallel_beam(7.0 + np.arange(720) * 0.25, rows=1, columns=481, cell_mm=(1.0, 0.83))
    rng = np.random.default_rng(5)
    integrals = 0.05 * rng.standard_normal(geometry.shape, np.float32)
    scan = Projections(integrals, np.ones_like(integrals), geometry)
    wanted = GridRequest(64, 380.0, (3.0, -2.0), 1.0)
    like = Grid.centred((1, 64, 64), (1.0, 380 / 64, 380 / 64), (3.0, 0.0, -2.0))
    told = deviation(scan, AUTO, "hann", wanted, like, reconstruct=reconstruct)
    f = np.linspace(0, 0.5 / 0.83, 20001)
    power = (f * kernel("hann").response(f, 0.83)) ** 2 * (2 + np.cos(2 * np.pi * f * 0.83)) / 3
    variance = np.pi**2 * 0.05**2 / 720 * 2 * 0.83 * np.trapezoid(power, f)
    assert np.sqrt(np.mean(told.astype(np.float64) ** 2)) == pytest.approx(np.sqrt(variance), rel=0.03)


def test_noise_lies_where_the_noisy_rays_cross():
    """Rays through a disc right below are noisier: the excess of variance has its centre there, in every slice."""
    geometry = Geometry.circular(STACK, 23.0 + np.arange(400) * 0.9, axial_mm=3.0)
    place = (38.0, -26.0)
    shadow = line_integrals(Cylinder((place[0], 0.0, place[1]), (22.0, 22.0), 400.0), geometry, 1.0)
    rng = np.random.default_rng(3)
    integrals = (0.002 + 0.001 * shadow) * rng.standard_normal(shadow.shape, np.float32)
    scan = Projections(integrals.astype(np.float32), np.ones_like(shadow), geometry, water_per_mm=WATER)
    like = Grid.centred((3, 120, 80), (1.0, 1.25, 1.25), (9.0, 3.0, -6.0))
    told = deviation(scan, AUTO, "hann", GridRequest(96, 150.0, None, 1.0), like, reconstruct=reconstruct)
    for image in told:
        excess = np.clip(image - 0.6 * image.max(), 0, None).astype(np.float64)
        row, column = (np.sum(excess * index) / excess.sum() for index in np.indices(image.shape))
        x, _, z = like.position_mm((0, row, column))
        assert np.hypot(x - place[0], z - place[1]) < 8.0


def test_a_tilted_gantry_has_the_noise_of_an_upright_one():
    maps = []
    for tilt in (0.0, 17.0):
        geometry = Geometry.circular(replace(STACK, tilt_deg=tilt), np.arange(400) * 0.9, axial_mm=40.0)
        rng = np.random.default_rng(8)
        integrals = 0.02 * rng.standard_normal(geometry.shape, np.float32)
        scan = Projections(integrals, np.ones_like(integrals), geometry, water_per_mm=WATER)
        wanted = GridRequest(48, 120.0, (21.0, -14.0), 1.0)
        like = reconstruct(scan, AUTO, "hann", wanted).grid
        maps.append(deviation(scan, AUTO, "hann", wanted, like, reconstruct=reconstruct))
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-3)


@pytest.mark.parametrize("name", ["fan, odd number of views", "cone beam", "helix"])
def test_the_object_does_not_leak_into_its_noise(name):
    """Without noise, what is told is what edges change from view to view: below the 3 … 4 HU of a full dose, beside
    edges of 1000 HU too, and far below it away from them."""
    geometry, thickness = SCANS[name]
    scan = clean(geometry)
    like = reconstruct(scan, AUTO, "body", request(thickness)).grid
    told = deviation(scan, AUTO, "body", request(thickness), like, reconstruct=reconstruct)[0]
    assert np.median(told[inside(like)]) < 0.7
    assert told[inside(like)].max() < 4.0
    assert told.min() > 0


@pytest.mark.parametrize("views", [96, 101])
def test_a_shaken_scan_differs_by_a_share_of_its_noise(views, lopsided_gantry, rng):
    """White noise about what a cubic can say of four spots that fly: the spots' own offsets and the cubic vanish."""
    spots = FocalSpotShift.alternating(views, (-0.0009, 0.0011), (-0.7, 0.5), (0.3, -0.2))
    geometry = Geometry.helical(lopsided_gantry, views=views, views_per_turn=41, table_feed_mm=-6.3, shift=spots)
    view = np.arange(views, dtype=np.float64)[:, None, None] / 40
    smooth = 1 + 0.3 * view - 0.2 * view**2 + 0.05 * view**3 + 0.7 * (np.arange(views) % 2)[:, None, None]
    noise = 0.02 * rng.standard_normal(geometry.shape)
    integrals = (smooth + noise).astype(np.float32)
    scan = Projections(integrals, np.ones_like(integrals), geometry, water_per_mm=WATER)
    moved = shaken(scan).integrals - integrals
    assert moved.std() == pytest.approx(SHAKE * 0.02, rel=0.03)
    bare = shaken(replace(scan, integrals=np.broadcast_to(smooth, geometry.shape).astype(np.float32)))
    np.testing.assert_allclose(bare.integrals, np.broadcast_to(smooth, geometry.shape), atol=2e-6)
    signs = np.sign(moved[5:-5, 2, 7] * (integrals - smooth)[5:-5, 2, 7])
    assert 0.2 < np.mean(signs > 0) < 0.8


@pytest.mark.parametrize("cycle_mm", [0.0, 0.5])
def test_views_of_a_shaken_scan_are_the_same_however_they_are_asked_for(cycle_mm, lopsided_gantry, rng, monkeypatch):
    """One focal spot and two, spans that cut through batches of views, single views, steps, and the whole."""
    spots = FocalSpotShift.alternating(301, (0.0, 0.0), (-cycle_mm, cycle_mm), (0.0, 0.0))
    geometry = Geometry.helical(lopsided_gantry, views=301, views_per_turn=41, table_feed_mm=-6.3, shift=spots)
    integrals = rng.standard_normal(geometry.shape, np.float32)
    scan = Projections(integrals, np.ones_like(integrals), geometry, water_per_mm=WATER)
    whole = shaken(scan).integrals
    assert isinstance(whole, np.ndarray)
    monkeypatch.setattr(noise, "HELD_BYTES", 0)
    made = shaken(scan).integrals
    assert not isinstance(made, np.ndarray)
    assert (made.shape, made.dtype, len(made)) == (whole.shape, whole.dtype, len(whole))
    for views in (
        slice(None),
        slice(61, 203),
        slice(130, 131),
        slice(7, 200, 3),
        slice(40, 40),
        np.array([0, 64, 300]),
    ):
        np.testing.assert_array_equal(made[views], whole[views])
    np.testing.assert_array_equal(np.asarray(made), whole)


@pytest.mark.parametrize("name", ["fan, odd number of views", "cone beam", "helix"])
def test_the_noise_is_the_same_whether_the_shaken_scan_is_held_or_made_view_by_view(name, rng, monkeypatch):
    geometry, thickness = SCANS[name]
    scan = noisy(clean(geometry), rng)
    like = reconstruct(scan, AUTO, "body", request(thickness)).grid

    def told():
        return deviation(scan, AUTO, "body", request(thickness), like, reconstruct=reconstruct)

    held = told()
    monkeypatch.setattr(noise, "HELD_BYTES", 0)
    np.testing.assert_array_equal(told(), held)


def test_the_map_is_made_where_it_is_asked_for_and_is_the_same(rng):
    geometry, thickness = SCANS["cone beam"]
    scan, like = noisy(clean(geometry), rng), Grid.centred((3, 31, 43), (1.1, 4.1, 3.3), (3.0, 2.1, -2.0))
    strict = replace(HOST, xp=array_api_strict, up=array_api_strict.asarray)
    here, there = (
        deviation(scan, AUTO, "body", request(thickness), like, reconstruct=reconstruct, memory=memory)
        for memory in (HOST, strict)
    )
    assert isinstance(there, type(array_api_strict.asarray(here)))
    assert np.ptp(here) > 1.0
    np.testing.assert_allclose(np.asarray(there), here, rtol=1e-6)


def test_too_few_views_are_refused():
    geometry = Geometry.circular(ROW, np.arange(7) * 51.0)
    with pytest.raises(InputError, match="7 views of 1 focal spots"):
        shaken(Projections(np.zeros(geometry.shape, np.float32), np.ones(geometry.shape, np.float32), geometry))


def test_pooled_squares_are_the_variance_and_edges_drop_out(rng):
    values = 3.0 * rng.standard_normal((8, 96, 96), np.float32)
    values[:, 40:43, :] += 400.0 * rng.choice([-1, 1], (8, 3, 96)).astype(np.float32)
    known = np.ones(values.shape, np.bool_)
    known[:, :, :20] = False
    values[:, :, :20] = np.nan
    variance, size = pooled(values, known, 4)
    assert size == (4, 3, 3)
    assert variance.shape == (2, 32, 32)
    away = np.delete(variance, slice(11, 17), axis=1)
    assert np.sqrt(away.mean()) == pytest.approx(3.0, rel=0.03)
    assert variance.max() < 25 * 9


def test_the_constants_of_the_normal_distribution_are_right(rng):
    square = rng.standard_normal(2_000_000) ** 2
    assert np.minimum(square, 9).mean() == pytest.approx(CLIPPED_SQUARE, abs=2e-3)
    assert np.median(square) == pytest.approx(NORMAL_MEDIAN_SQUARE, abs=2e-3)


def test_a_scan_without_a_single_whole_voxel_is_refused():
    with pytest.raises(InputError, match="no voxel"):
        pooled(np.zeros((2, 9, 9), np.float32), np.zeros((2, 9, 9), np.bool_), 1)


def test_a_perturbed_scan_has_so_much_more_noise(rng):
    geometry, _ = SCANS["short scan"]
    scan = clean(geometry)
    weights = np.array(scan.weights)
    weights[7, 0, 30:40] = 0
    scan = replace(scan, weights=weights)
    before = scan.integrals.copy()
    more = perturbed(scan, rng, share=0.4)
    moved = (more.integrals - scan.integrals)[weights > 0] * np.sqrt(weights[weights > 0])
    assert moved.std() == pytest.approx(0.4, rel=0.01)
    assert abs(moved.mean()) < 0.01
    np.testing.assert_array_equal(more.integrals[7, 0, 30:40], scan.integrals[7, 0, 30:40])
    np.testing.assert_array_equal(scan.integrals, before)
    again = perturbed(scan, np.random.default_rng(4), share=0.4)
    np.testing.assert_array_equal(again.integrals, perturbed(scan, np.random.default_rng(4), share=0.4).integrals)


def test_counts_move_as_the_integrals_say(rng):
    """dN = −√(N + electronic)·z where dq = z/√w: the same event, seen before and behind the logarithm."""
    geometry = Geometry.circular(ROW, np.arange(60) * 6.0)
    counts = np.full(geometry.shape, 900.0, np.float32)
    weights = np.full(geometry.shape, 900.0**2 / (900.0 + 16.0), np.float32)
    quanta = Quanta(counts, np.full((1, 1, 271), 1e4, np.float32), np.ones(60), np.zeros(60, np.intp), 16.0)
    scan = Projections(np.zeros(geometry.shape, np.float32), weights, geometry, history=KNOWN, quanta=quanta)
    more = perturbed(scan, rng, share=0.5)
    assert more.quanta is not None
    np.testing.assert_allclose(more.quanta.measured - counts, -900.0 * more.integrals, rtol=1e-3, atol=2e-3)
    assert np.std(more.quanta.measured) == pytest.approx(0.5 * np.sqrt(916.0), rel=0.03)


def test_noise_that_is_not_known_cannot_be_added(rng):
    scan = replace(clean(SCANS["short scan"][0]), history=(Applied.of("log", noise="assumed"),))
    assert not noise_known(scan)
    with pytest.raises(InputError, match="weights are relative"):
        perturbed(scan, rng, share=0.5)


@pytest.mark.parametrize("share", [0.0, -1.0, np.inf, np.nan])
def test_a_senseless_share_is_refused(share, rng):
    with pytest.raises(InputError, match="share"):
        perturbed(clean(SCANS["short scan"][0]), rng, share=share)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_bad_weights_are_counted(bad, rng):
    scan = clean(SCANS["short scan"][0])
    weights = np.array(scan.weights)
    weights[3, 0, :5] = bad
    with pytest.raises(InputError, match="5 weights"):
        perturbed(replace(scan, weights=weights), rng, share=0.5)


def edge_preserving(volume):
    """A denoiser that is not linear: Perona and Malik's diffusion, four steps, conductance falling over 30 HU."""
    values = volume.values.astype(np.float64)
    for _ in range(4):
        steps = [np.roll(values, turn, axis) - values for axis in (1, 2) for turn in (1, -1)]
        values = values + 0.2 * sum(step * np.exp(-((step / 30.0) ** 2)) for step in steps)
    return replace(volume, values=values.astype(np.float32))


@pytest.mark.parametrize("method", ["linear", "not linear"])
def test_replicates_tell_the_noise_of_any_method(method, rng):
    """One scan and two perturbed ones against sixteen scans; in blocks of 4 mm with few
    independent points, hence the width."""
    geometry, thickness = SCANS["short scan"]
    scan = clean(geometry)

    def image(projections):
        volume = reconstruct(projections, AUTO, "hann", request(thickness))
        return volume if method == "linear" else edge_preserving(volume)

    images = [image(noisy(scan, rng)) for _ in range(16)]
    first = noisy(scan, rng)
    replicates = [image(perturbed(first, rng, share=0.5)) for _ in range(2)]
    told = deviation_of_replicates(image(first), replicates, 0.5, images[0].grid)
    ratio = (told[0] / empirical([one.values for one in images]))[inside(images[0].grid)]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.08)
    assert np.mean(np.abs(ratio - 1) < 0.3) > 0.8


def test_replicates_must_be_alike():
    scan = clean(SCANS["short scan"][0])
    image = reconstruct(scan, AUTO, "hann", request(0.97))
    other = reconstruct(scan, AUTO, "hann", replace(request(0.97), matrix=64))
    with pytest.raises(InputError, match="at least one"):
        deviation_of_replicates(image, [], 0.5, image.grid)
    with pytest.raises(InputError, match=r"\(1, 64, 64\)"):
        deviation_of_replicates(image, [other], 0.5, image.grid)


def test_only_analytic_methods_are_linear():
    assert is_linear(AUTO)
    assert is_linear(Step.of("wfbp", flat_share=0.4))
    assert not is_linear(Step.of("auto", denoiser="firefly"))
    assert not is_linear(Step("pwls"))
