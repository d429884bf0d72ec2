"""Iterative images: whole bodies, long objects, regions of interest, slabs, checkpoints, and what is refused."""

import math
from dataclasses import replace

import array_api_strict
import numpy as np
import pytest

from lampyris.model import (
    CardFullError,
    DivergenceError,
    FocalSpotShift,
    Gantry,
    Geometry,
    Grid,
    GridRequest,
    InputError,
    Projections,
    Quanta,
    RecipeError,
    Step,
)
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder, Ellipsoid
from lampyris.projector import load
from lampyris.recon import reconstruct
from lampyris.recon.field import Circle
from lampyris.recon.iterative import run
from lampyris.recon.iterative.crossings import crossing, margin_slices, rays_within
from lampyris.recon.iterative.domain import SLAB_BYTES, Lattice, Rays, prepare, slab_slices
from lampyris.recon.iterative.fidelity import WeightedSquares
from lampyris.recon.iterative.priors import Anchor
from lampyris.recon.iterative.solver import Settings, ordered_subsets

WATER = 0.0193
TRUNK = ((Cylinder((9.0, 0.0, -6.0), (62.0, 51.0), 400.0), WATER),)
INSERTS = (
    (Cylinder((31.0, 0.0, 14.0), (9.0, 9.0), 400.0), 0.25 * WATER),
    (Ellipsoid((-12.0, 2.0, -9.0), (17.0, 5.0, 13.0)), 0.1 * WATER),
)
GANTRY = Gantry(541.0, 949.0, 8, 121, (3.4, 3.25), True, 3.7, 60.25)
AXIAL = Geometry.circular(GANTRY, 23.0 + np.arange(120) * 3.0)
HELIX = Geometry.helical(GANTRY, views=300, views_per_turn=120, table_feed_mm=-12.0, start_angle_deg=17.0)
SMALL = GridRequest(40, slice_thickness_mm=2.0)
QUICK = Step.of("pwls", iterations=6, subsets=6)


def scan(geometry, parts=TRUNK + INSERTS, quanta=0.0, rng=None):
    """Without noise and equal weights, or with Poisson noise of `quanta` in the open beam."""
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in parts:
        integrals += line_integrals(shape, geometry, per_mm)
    if not quanta:
        return Projections(integrals, np.ones_like(integrals), geometry, water_per_mm=WATER, scan_id="quiet")
    counts = np.maximum(rng.poisson(quanta * np.exp(-integrals)), 1).astype(np.float32)
    return Projections(np.log(np.float32(quanta) / counts), counts, geometry, water_per_mm=WATER, scan_id="noisy")


def analytic(projections):
    """1/mm with NaN, as the door of the package makes it."""

    def start(request):
        volume = reconstruct(projections, Step.of("auto"), "body", request)
        values = ((volume.values / 1000 + 1) * WATER).astype(np.float32)
        if volume.valid is not None:
            values[~volume.valid] = np.nan
        return values, volume.grid

    return start


def never(*_asked):
    raise AssertionError("nobody should have asked for this")


def image(projections, method=QUICK, request=SMALL, **options):
    return run.image(
        projections, method, "body", request, options.pop("progress", lambda _done: None),
        analytic=analytic(projections), noise=options.pop("noise", never), engine=load("cpu"), **options,
    )  # fmt: skip


def domain_of(projections, request=SMALL, **options):

    def likelihood(views):
        return WeightedSquares(projections.integrals[views], projections.weights[views])

    return prepare(projections, likelihood, request, analytic(projections), **options)


def hu(values):
    return 1000.0 * (np.asarray(values, np.float64) / WATER - 1.0)


def disc(grid, x, z, radius):
    """(rows, columns) True within `radius` of (x, z)."""
    columns = grid.first_voxel_mm[0] + np.arange(grid.shape[2]) * grid.spacing_mm[2]
    rows = grid.first_voxel_mm[2] - np.arange(grid.shape[1]) * grid.spacing_mm[1]
    return np.hypot(columns[None, :] - x, rows[:, None] - z) < radius


# ---- geometry, by hand


def test_where_rays_cross_the_body_is_as_computed_by_hand():
    """Source above, at z = 541; the middle column's ray leaves a circle of 100 mm about the isocentre at z = ±100,
    at shares 441/949 and 641/949 of its way. Row 6 spans (6 − 3.7 ± ½)·3.4 = 6.12 … 9.52 mm at the detector."""
    straight = replace(GANTRY, columns=3, central_column=1.0)
    geometry = Geometry.circular(straight, np.array([0.0]), axial_mm=5.0)
    low, high = crossing(geometry, Circle(0.0, 0.0, 100.0), 0)
    assert low[6, 1] == pytest.approx(5.0 + 6.12 * 441 / 949)
    assert high[6, 1] == pytest.approx(5.0 + 9.52 * 641 / 949)
    assert low[0, 1] == pytest.approx(5.0 - 4.2 * 3.4 * 641 / 949)  # far below: lowest where it leaves
    assert high[0, 1] == pytest.approx(5.0 - 3.2 * 3.4 * 441 / 949)


def test_parallel_rays_cross_where_their_rows_are():
    geometry = Geometry.parallel_beam(np.array([30.0]), rows=4, columns=7, cell_mm=(1.5, 2.0), central_row=1.0)
    low, high = crossing(geometry, Circle(3.0, -4.0, 50.0), 0)
    np.testing.assert_allclose(low[:, 2], [-2.25, -0.75, 0.75, 2.25], atol=1e-9)
    np.testing.assert_allclose(high - low, 1.5, atol=1e-9)


def test_the_margin_holds_every_ray_through_the_slab():
    body = Circle(9.0, -6.0, 62.0)
    margin = margin_slices(HELIX, body, (-6.0, 6.0), 2.0)
    ends = (-6.0 - 2.0 * margin, 6.0 + 2.0 * margin)
    used = rays_within(HELIX, body, ends)
    for view in range(0, HELIX.views, 7):
        low, high = crossing(HELIX, body, view)
        assert used[view][(low < 6.0) & (high > -6.0)].all()
    assert 0.2 < used.mean() < 0.9  # the helix is longer than this


def test_thick_slices_are_averages_of_the_lattice():
    """Taps ¼ ½ ¼ at a stride of 2: slice 0 is ¼·v₁ + ½·v₂ + ¼·v₃ with one slice of margin; pads are cut off."""
    fine = Grid.centred((7, 5, 5), (1.0, 1.0, 1.0))
    values = np.arange(7, dtype=np.float32)[:, None, None] ** 2 * np.ones((1, 5, 5), np.float32)
    unseen = np.zeros((2, 3, 3), bool)
    unseen[1, 2, 0] = True
    taps = np.array([0.25, 0.5, 0.25], np.float32)
    lattice = Lattice(fine, Grid.centred((2, 3, 3), (2.0, 1.0, 1.0)), 1, 1, 2, taps, unseen)
    made = lattice.image(values)
    assert made[0, 0, 0] == 0.25 * 1 + 0.5 * 4 + 0.25 * 9
    assert made[1, 0, 0] == 0.25 * 9 + 0.5 * 16 + 0.25 * 25
    assert np.isnan(made[1, 2, 0])
    assert np.isnan(made).sum() == 1


# ---- images


@pytest.mark.parametrize("geometry", [AXIAL, HELIX], ids=["axial cone", "helix"])
def test_a_long_body_is_even_to_its_last_slice(geometry):
    """A cylinder that does not change along y: 0 ± 2 HU in the middle of every slice, end slices no brighter."""
    made, grid = image(scan(geometry, TRUNK))
    inside = disc(grid, 9.0, -6.0, 38.0)
    means = hu([values[inside].mean() for values in made])
    assert len(means) >= 5
    assert np.abs(means).max() < 2.0
    rim = disc(grid, 9.0, -6.0, 48.0) & ~disc(grid, 9.0, -6.0, 40.0)
    assert np.abs(hu([values[rim].mean() for values in made])).max() < 4.0


def test_the_grid_is_the_analytic_one_and_what_it_did_not_see_stays_unseen():
    projections = scan(AXIAL)
    wide = GridRequest(40, field_of_view_mm=260.0, slice_thickness_mm=2.0)  # wider than the scan field of 224 mm
    plain, grid = analytic(projections)(wide)
    plain[:, :3, :] = np.nan

    def start(request):
        values, lattice = analytic(projections)(request)
        values[:, :3, :] = np.nan
        return values, lattice

    made, lattice = run.image(
        projections, QUICK, "body", wide, lambda _done: None, analytic=start, noise=never, engine=load("cpu")
    )
    np.testing.assert_array_equal(np.isnan(made), np.isnan(plain))
    np.testing.assert_array_equal(lattice.first_voxel_mm, grid.first_voxel_mm)
    assert lattice.shape == grid.shape
    assert np.nanmin(made) >= 0.0


def test_slices_thicker_than_rows_come_from_finer_voxels():
    """6 mm slices of 1.94 mm rows every 3 mm: voxels of 3 mm, averaged ¼ ½ ¼; water stays water."""
    request = GridRequest(40, slice_thickness_mm=6.0, slice_increment_mm=3.0)
    domain = domain_of(scan(HELIX, TRUNK), request)
    np.testing.assert_allclose(domain.lattice.taps, [0.25, 0.5, 0.25])
    assert domain.lattice.grid.spacing_mm[0] == 3.0
    made, grid = image(scan(HELIX, TRUNK), request=request)
    inside = disc(grid, 9.0, -6.0, 38.0)
    assert np.abs(hu([values[inside].mean() for values in made])).max() < 2.0
    assert domain_of(scan(HELIX), GridRequest(40, slice_thickness_mm=6.0)).lattice.stride == 2


def test_a_region_of_interest_is_cut_from_the_whole_image():
    """What surrounds a field of 60 mm is taken off the integrals: the same image as from a field with the whole body.

    Both have voxels of 3 mm; they agree in mean to 2 HU and voxel by voxel to 6 HU RMS, a tenth of an insert's edge:
    the analytic outside has its own blur and the cut runs through edges. Left in, the outside would add 1000 HU.
    """
    projections = scan(AXIAL)
    part = GridRequest(20, field_of_view_mm=60.0, centre_mm=(15.0, 0.0), slice_thickness_mm=2.0)
    whole = GridRequest(60, field_of_view_mm=180.0, centre_mm=(15.0, 0.0), slice_thickness_mm=2.0)
    stronger = Step.of("pwls", iterations=8, subsets=6, strength=100.0)
    near, _ = image(projections, stronger, part)
    wide, _ = image(projections, stronger, whole)
    difference = (hu(near) - hu(wide[:, 20:40, 20:40]))[:, 2:-2, 2:-2]
    assert abs(difference.mean()) < 2.0
    assert np.sqrt((difference**2).mean()) < 6.0


def test_slabs_give_the_image_that_the_whole_gives(rng):
    """Cut into three: within 1 HU RMS in the body, noise and all."""
    projections = scan(HELIX, quanta=3e5, rng=rng)
    settings = Settings(strength=0.3, subsets=6, passes=8)
    prior_of = run.Choice.of(QUICK).prior_of
    whole = domain_of(projections)
    parts = domain_of(projections, slab_bytes=1)
    assert len(whole.spans) == 1
    assert len(parts.spans) == 2
    one = run.solve(whole, prior_of, whole.start, settings)
    two = run.solve(parts, prior_of, parts.start, settings)
    inside = disc(whole.lattice.grid, 9.0, -6.0, 45.0)
    margin = whole.lattice.margin
    difference = (hu(one) - hu(two))[margin:-margin, inside]
    assert np.sqrt((difference**2).mean()) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("dose", [1.0, 0.05])
def test_the_default_passes_reach_the_minimum_within_1_hu(dose, rng):
    """Root mean square in the body against 80 passes with half the subsets, relaxed to a thirty-fifth.

    Voxels are 3.4 mm wide and the prior as strong for them as the default is for those of 1 mm.
    """
    projections = scan(AXIAL, quanta=3e5 * dose, rng=rng)
    choice = run.Choice.of(Step.of("pwls", strength=100.0))
    domain = domain_of(projections)
    slab = domain.slab(0)
    found = run.solve(domain, choice.prior_of, domain.start, choice.settings)
    longer = Settings(choice.settings.strength, subsets=8, passes=30)
    states = ordered_subsets(slab.projector, slab.fidelity, choice.prior_of(slab), domain.start, settings=longer)
    best = next(state for state in states if state.iteration == 80).image
    inside = disc(domain.lattice.grid, 9.0, -6.0, 45.0)
    margin = domain.lattice.margin

    def apart(one):
        return float(np.sqrt(((hu(one) - hu(best))[margin:-margin, inside] ** 2).mean()))

    assert apart(domain.start) > 10.0
    assert apart(found) < 1.0


# ---- memory


def test_a_long_chest_fits_its_memory():
    """512² × 600 slices of 1 mm, 64 rows × 736 columns, 1152 views a turn of 40 mm: a slab of 1.5 GiB holds
    8 volumes of (kept + 2·16) MiB and 5 bytes for each of 28.8 · 47104 rays a mm."""
    chest = Gantry(595.0, 1085.6, 64, 736, (1.0947, 1.2858))
    geometry = Geometry.helical(chest, views=3, views_per_turn=1152, table_feed_mm=38.4)
    grid = Grid.centred((632, 512, 512), (1.0, 0.7, 0.7))
    nothing = np.zeros((600, 1, 1), bool)
    lattice = Lattice(grid, grid.slab(16, 616), 16, 0, 1, np.ones(1, np.float32), nothing)
    kept = slab_slices(lattice, geometry, 30.0, 90.0, SLAB_BYTES)
    held = 8 * 4 * 512**2 * (kept + 32) + 5 * 30.0 * (kept + 90.0) * 64 * 736
    assert held <= SLAB_BYTES
    assert kept >= 32  # margins are no more than what is kept
    lattice_bytes, image_bytes = 4 * 632 * 512**2, 4 * 600 * 512**2
    scan_bytes = 2 * 4 * 64 * 736 * round(1152 * (600 + 60) / 38.4)
    assert scan_bytes + 3 * lattice_bytes + image_bytes + held < 12e9


def full_above(slices, prior_of):
    """What a card says that holds slabs of so many slices and no more, and what was tried."""
    tried = []

    def asked(slab):
        tried.append(slab.grid.shape[0])
        if tried[-1] > slices:
            raise CardFullError("the card is full, 3 MiB of 1024 MiB are free")
        return prior_of(slab)

    return asked, tried


def test_a_slab_that_the_card_does_not_hold_is_begun_anew_in_halves(rng):
    """With the very numbers of slabs cut there from the beginning; the margins that both have are the same."""
    projections = scan(HELIX, quanta=3e5, rng=rng)
    settings, prior_of = Settings(strength=0.3, subsets=6, passes=1), run.Choice.of(QUICK).prior_of
    whole = domain_of(projections)
    high, margin = whole.spans[0].window.stop, whole.lattice.margin
    asked, tried = full_above(high - 1, prior_of)
    memory = Memory()
    found = run.solve(whole, asked, whole.start, settings, keeper=run.Keeper(memory, "scan"))
    first, middle, last = memory.arrays["cuts"].tolist()
    assert (first, last) == (margin, high - margin)
    assert tried == [high, middle + margin, high - middle + margin]
    np.testing.assert_array_equal(found, run.solve(whole.halved(0), prior_of, whole.start, settings))


def test_a_run_goes_on_in_the_slabs_that_it_was_stopped_in(rng):
    projections = scan(HELIX, quanta=3e5, rng=rng)
    settings, prior_of = Settings(strength=0.3, subsets=6, passes=1), run.Choice.of(QUICK).prior_of
    whole, memory = domain_of(projections), Memory()
    keeper = run.Keeper(memory, "scan")

    def stop(done):
        if done > 0.7:
            raise StoppedError

    with pytest.raises(StoppedError):
        run.solve(whole.halved(0), prior_of, whole.start, settings, progress=stop, keeper=keeper)
    resumed = run.solve(whole, prior_of, whole.start, settings, keeper=keeper)
    np.testing.assert_array_equal(resumed, run.solve(whole.halved(0), prior_of, whole.start, settings))


def test_a_checkpoint_that_does_not_say_where_slabs_end_is_refused():
    memory = Memory()
    memory.save({"key": np.frombuffer(b"scan", np.uint8), "lattice": np.zeros((2, 3, 4)), "slab": np.array(1)})
    with pytest.raises(InputError, match="lacks cuts: written by another version"):
        run.Keeper(memory, "scan").load()


def test_what_no_halving_helps_is_refused_with_the_card_s_words(rng):
    projections = scan(AXIAL, quanta=3e5, rng=rng)
    domain = domain_of(projections)
    asked, tried = full_above(0, never)
    with pytest.raises(CardFullError, match="3 MiB of 1024 MiB are free"):
        run.solve(domain, asked, domain.start, Settings(passes=1))
    assert len(tried) == 1 + run.HALVINGS


# ---- any array type


def test_rays_take_arrays_of_any_type(rng):
    """What stays fixed, what is added and where rays are used: the same of arrays that are not NumPy's."""
    strict = array_api_strict.asarray
    shape = (6, 4, 5)
    data, projected, outside = (rng.random(shape, dtype=np.float32) for _ in range(3))
    weights, used = rng.uniform(0, 3, shape).astype(np.float32), rng.random(shape) < 0.6
    ours = Rays(WeightedSquares(data, weights), data, used, outside)
    theirs = Rays(WeightedSquares(strict(data), strict(weights)), strict(data), strict(used), strict(outside))
    for views in (slice(1, 6, 2), [4, 0]):
        some = strict(projected[views])
        assert theirs.misfit(some, views) == pytest.approx(ours.misfit(projected[views], views), rel=1e-6)
        for found, expected in (
            (theirs.slope(some, views), ours.slope(projected[views], views)),
            (theirs.curvature(views), ours.curvature(views)),
        ):
            assert found.dtype == array_api_strict.float32
            np.testing.assert_array_equal(np.asarray(found), expected)
    body, ends = Circle(9.0, -6.0, 62.0), (-16.0, 16.0)
    np.testing.assert_array_equal(np.asarray(rays_within(HELIX, body, ends, strict)), rays_within(HELIX, body, ends))


# ---- checkpoints


class Memory:
    """Keeps copies, as a disk would."""

    def __init__(self):
        self.arrays = None

    def load(self):
        return self.arrays

    def save(self, arrays):
        self.arrays = {name: np.array(array) for name, array in arrays.items()}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [0.4, 1.0])
def test_an_interrupted_run_ends_in_the_same_image(after, rng):
    projections = scan(AXIAL, quanta=3e5, rng=rng)
    memory = Memory()

    def progress(done):
        if done >= after:
            raise StoppedError

    with pytest.raises(StoppedError):
        image(projections, progress=progress, checkpoint=memory)
    assert memory.arrays is not None
    reported = []
    resumed, _ = image(projections, progress=reported.append, checkpoint=memory)
    np.testing.assert_array_equal(resumed, image(projections)[0])
    assert reported[0] >= after - 1e-9  # nothing was done twice
    assert reported[-1] == 1.0


def test_a_checkpoint_of_another_scan_or_recipe_is_refused(rng):
    projections = scan(AXIAL, quanta=3e5, rng=rng)
    memory = Memory()
    image(projections, Step.of("pwls", iterations=1), checkpoint=memory)
    for other in (
        {"projections": projections, "method": Step.of("pwls", iterations=2)},
        {"projections": replace(projections, scan_id="another"), "method": Step.of("pwls", iterations=1)},
        {
            "projections": replace(projections, weights=2 * projections.weights),
            "method": Step.of("pwls", iterations=1),
        },
    ):
        with pytest.raises(InputError, match=r"the checkpoint is of [0-9a-f]{12}, this scan and recipe are"):
            image(**other, checkpoint=memory)


# ---- refusals


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Step.of("sart"), "'sart' is unknown; known are pwls, poisson"),
        (Step.of("pwls", prior="magic"), "prior 'magic' is unknown; known are"),
        (Step.of("pwls", sharpness=3), r"unknown settings \['sharpness'\]"),
        (Step.of("pwls", strength="high"), "pwls strength is 'high'"),
        (Step.of("pwls", strength=-2.0), r"pwls strength is -2\.0"),
        (Step.of("poisson", iterations=0), "passes is 0"),
        (Step.of("pwls", subsets=2.5), r"subsets is 2\.5"),
        (Step.of("pwls", prior="hyperbola", delta_hu=0), "delta_hu = 0"),
        (Step.of("pwls", edge=-0.3), r"edge is -0\.3, expected a number above 0"),
        (Step.of("pwls", edge=0.3, delta_hu=20.0), "gives both edge and delta_hu"),
        (
            Step.of("pwls", prior="quadratic", edge=0.3),
            "prior 'quadratic' has no edge; hyperbola, huber",
        ),
    ],
)
def test_unknown_or_unfit_settings_are_refused_before_any_work(method, words):
    with pytest.raises(RecipeError, match=words):
        run.image(
            scan(AXIAL), method, "body", SMALL, lambda _done: None, analytic=never, noise=never, engine=load("cpu")
        )


def test_poisson_without_quanta_is_refused():
    with pytest.raises(InputError, match="needs the counted quanta"):
        image(scan(AXIAL), Step.of("poisson"))


def test_weights_with_nan_are_refused():
    projections = scan(AXIAL)
    weights = projections.weights.copy()
    weights[3, 2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        image(replace(projections, weights=weights))


def test_rays_without_a_say_neither_pull_nor_cost():
    projections = scan(AXIAL)
    slab = domain_of(projections, replace(SMALL, first_mm=-1.0, last_mm=1.0)).slab(0)
    used = slab.fidelity.used
    assert 0.0 < used.mean() < 1.0
    projected = slab.projector.forward(slab.projector.adjoint(np.ones(slab.fidelity.shape, np.float32)))
    views = slice(2, 50, 5)
    assert (slab.fidelity.slope(projected[views], views)[~used[views]] == 0).all()
    assert (slab.fidelity.curvature(views)[~used[views]] == 0).all()
    shifted = projected[views] + np.where(used[views], 0, 7).astype(np.float32)
    assert slab.fidelity.misfit(shifted, views) == slab.fidelity.misfit(projected[views], views)


# ---- through the door of the package


MIDDLE = GridRequest(50, 150.0, (9.0, -6.0), 2.0, first_mm=-1.0, last_mm=1.0)


def test_a_flying_focal_spot_is_followed():
    """Every second view's spot is 11 mm away: water even to 2 HU, the small cylinder where it is to 0.2 mm.

    Taken for one spot, all would be turned about the isocentre by some of the spots' mean angle, 0.01.
    """
    spots = FocalSpotShift.alternating(HELIX.views, (0.0, 0.02))
    flying = Geometry.helical(
        GANTRY, views=300, views_per_turn=120, table_feed_mm=-12.0, start_angle_deg=17.0, shift=spots
    )
    projections = scan(flying, (*TRUNK, INSERTS[0]))
    volume = reconstruct(projections, QUICK, "body", MIDDLE)
    water = disc(volume.grid, 9.0, -6.0, 48.0) & ~disc(volume.grid, 31.0, 14.0, 16.0)
    assert np.abs(volume.values[:, water].mean(1)).max() < 2.0
    assert place(volume) == pytest.approx((31.0, 14.0), abs=0.2)
    wrong = reconstruct(replace(projections, geometry=HELIX), QUICK, "body", MIDDLE)
    assert np.hypot(*np.subtract(place(wrong), (31.0, 14.0))) > 0.4


def place(volume):
    """(x, z) of the centre of gravity of what is denser than water about the small cylinder."""
    near = disc(volume.grid, 31.0, 14.0, 16.0)
    rows, columns = np.indices(near.shape)
    excess = np.where(near, volume.values.mean(0), 0.0)
    first, step = volume.grid.first_voxel_mm, volume.grid.spacing_mm
    x = first[0] + (excess * columns).sum() / excess.sum() * step[2]
    return x, first[2] - (excess * rows).sum() / excess.sum() * step[1]


def test_a_truncated_body_keeps_its_ct_numbers():
    """A body 300 mm wide in a scan field of 224 mm: 0 ± 5 HU within 70 mm; the analytic start has −11 HU."""
    wide = ((Cylinder((6.0, 0.0, -4.0), (150.0, 80.0), 400.0), WATER),)
    request = replace(SMALL, first_mm=-1.0, last_mm=1.0)
    volume = reconstruct(scan(AXIAL, wide), QUICK, "body", request)
    for radius in (20.0, 45.0, 70.0):
        assert abs(volume.values[:, disc(volume.grid, 0.0, 0.0, radius)].mean()) < 5.0


def test_a_prior_stronger_than_the_data_does_not_diverge():
    """An anchor that outweighs the data everywhere: the image stays at it. With its gradient taken six times for
    sixteen subsets, three full steps at once, momentum runs away."""
    projections = scan(AXIAL)
    domain = domain_of(projections, replace(SMALL, first_mm=-1.0, last_mm=1.0))
    slab = domain.slab(0)
    heavy = np.full(slab.grid.shape, 1e5 * float(slab.certainty.max()) ** 2, np.float32)
    anchor = Anchor(np.full(slab.grid.shape, WATER, np.float32), heavy)

    def after(passes, **settings):
        chosen = Settings(1.0, 16, passes, least=-np.inf, **settings)
        states = ordered_subsets(slab.projector, slab.fidelity, anchor, domain.start, settings=chosen)
        return next(state for state in states if state.iteration == passes).image

    assert np.abs(after(3) - WATER).max() < 0.05 * WATER
    with pytest.raises(DivergenceError, match="cost and steps grow"):
        after(8, prior_per_pass=6)


@pytest.mark.parametrize("prior", ["hyperbola", "quadratic"])
def test_a_strong_prior_settles_in_margins_and_corners(prior):
    """Strength 1000: the prior's share of the curvature nears 1 where few rays pass, and steps still fall."""
    domain = domain_of(scan(AXIAL), replace(SMALL, first_mm=-1.0, last_mm=1.0))
    slab = domain.slab(0)
    choice = run.Choice.of(Step.of("pwls", prior=prior, strength=1000.0, iterations=6))
    states = ordered_subsets(
        slab.projector, slab.fidelity, choice.prior_of(slab), domain.start, settings=choice.settings
    )
    last = next(state for state in states if state.iteration == 6)
    assert last.steps[-1] < 0.5 * max(last.steps)
    assert domain.lattice.image(last.image).max() < 1.5 * WATER


def test_counts_themselves_have_no_bias_behind_a_starving_body(rng):
    """100 quanta in the open beam, 9 behind the body: the logarithm of a count is 1/(2·9) too high, 20 HU and more."""
    truth = scan(AXIAL, TRUNK).integrals
    counts = rng.poisson(100.0 * np.exp(-truth)).astype(np.float32)
    quanta = Quanta(counts, np.full((1, *truth.shape[1:]), 100.0), np.ones(120), np.zeros(120, np.intp), 0.0)
    seen = np.maximum(counts, 1.0)
    projections = Projections(np.log(100.0 / seen), seen, AXIAL, water_per_mm=WATER, scan_id="starved", quanta=quanta)
    bias = {}
    for name in ("poisson", "pwls"):
        method = Step.of(name, iterations=8, subsets=6, strength=20.0, prior="quadratic")
        volume = reconstruct(projections, method, "body", MIDDLE)
        bias[name] = volume.values[:, disc(volume.grid, 9.0, -6.0, 38.0)].mean()
    assert abs(bias["poisson"]) < 5.0
    assert abs(bias["pwls"]) > 10.0


# ---- an edge in units of the noise


def test_an_edge_in_units_of_the_noise_is_that_edge_in_hu_where_three_quarters_of_the_body_are_quieter(rng):
    """Noise of 20 HU in three of the body's quarters and 200 HU in air and in the last one counts as 20 HU."""
    projections = scan(AXIAL, quanta=2e5, rng=rng)

    def noise(_request, grid):
        level = np.full(grid.shape, 200.0, np.float32)
        body = analytic(projections)(SMALL)[0] > 0.5 * WATER
        places = np.argwhere(body)
        quiet = places[: math.ceil(0.76 * len(places))]
        level[tuple(quiet.T)] = 20.0
        return level

    def made(**edge):
        step = Step.of("pwls", iterations=2, subsets=4, strength=200.0, prior="huber", **edge)
        return hu(image(projections, step, noise=noise)[0])

    told = made(edge=0.4)
    np.testing.assert_allclose(told, made(delta_hu=8.0), atol=1e-3)
    assert np.abs(told - made(delta_hu=80.0)).max() > 1.0


def test_an_edge_in_units_of_the_noise_needs_hu():
    nameless = replace(scan(AXIAL), water_per_mm=None)
    with pytest.raises(RecipeError, match="needs HU, and the attenuation of water is not known"):
        run.image(
            nameless, Step.of("pwls", edge=0.4), "body", SMALL, lambda _done: None,
            analytic=analytic(nameless), noise=lambda _request, grid: np.ones(grid.shape, np.float32),
            engine=load("cpu"),
        )  # fmt: skip
