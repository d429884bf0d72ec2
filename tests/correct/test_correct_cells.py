"""Bad cells and rings: what is broken is found and mended, what is not is left alone."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

from lampyris.correct import correct
from lampyris.correct.ring import Ring
from lampyris.model import CalibrationError, RecipeError, Step

CHAIN = (Step("dark_air"), Step("bad_cells"), Step("log"))


def found(made):
    return dict(next(one for one in made.history if one.name == "bad_cells").settings)


def test_a_sound_detector_has_no_bad_cells(known):
    """Also without noise, where cells that see only air are constant: constant is not stuck."""
    scene = known()
    record = found(correct(scene.scan(), CHAIN))
    assert record["cells"] == 0


def test_dead_hot_and_stuck_cells_are_found_and_marked_ones_believed(known, rng):
    scene = known(open_counts=50_000.0)
    counts = rng.poisson(scene.means).astype(np.float64)
    air, dark = scene.open_counts + scene.dark, scene.dark.copy()
    air[1, 60] = dark[1, 60] + 3.0
    dark[3, 101] = air[3, 101] = 9000.0
    counts[:, 2, 117] = 777.0
    marked = np.zeros((5, 233), bool)
    marked[4, 150] = True
    counts[:, 4, 150] *= 1.9
    scan = scene.scan(
        counts, air=air[None].astype(np.float32), dark=dark.astype(np.float32), bad_cells=marked, noise=None
    )
    raw = np.array(scan.counts)
    raw[:, 2, 117] = 777.0
    made = correct(dataclasses.replace(scan, counts=raw, id="x"), CHAIN)
    off = np.argwhere((made.weights == 0).all(axis=0)).tolist()
    assert off == [[1, 60], [2, 117], [3, 101], [4, 150]]
    record = found(made)
    assert (record["marked"], record["stuck"], record["hot"]) == (1, 1, 1)


def test_mended_cells_carry_what_their_neighbours_say(known):
    """A lone cell and a run of three in a smooth sinogram: linear interpolation over gaps h errs by h²/8·|p''|, here
    below 0.02 off the body's edge; the unmended cells would err by 1 or more."""
    scene = known()
    marked = np.zeros((5, 233), bool)
    marked[2, 117] = marked[1, 90:93] = True
    counts = np.where(marked, 0.3 * scene.means, scene.means)
    made = correct(scene.scan(counts, bad_cells=marked), CHAIN)
    error = np.abs(made.integrals - scene.integrals)[:, marked]
    assert error.max() < 0.02
    assert np.abs(made.integrals - scene.expected)[:, ~marked].max() < 1e-5
    assert (made.weights[:, marked] == 0).all()
    assert (made.weights[:, ~marked] > 0).all()


def test_a_cell_in_the_corner_and_a_whole_row_are_mended_from_one_side(known):
    """Row 0 is bad throughout: its cells take the row above; all rows are alike but for the cone's 1/cos, < 1e-4."""
    scene = known()
    marked = np.zeros((5, 233), bool)
    marked[0] = True
    made = correct(
        scene.scan(bad_cells=marked), (Step("dark_air"), Step.of("bad_cells", largest_share=0.3), Step("log"))
    )
    assert np.abs(made.integrals - scene.integrals)[:, 0].max() < 2e-3


def test_too_many_bad_cells_are_another_detectors(known):
    marked = np.zeros((5, 233), bool)
    marked[:, ::11] = True
    with pytest.raises(CalibrationError, match=r"\(110 marked, 0 gain, 0 hot, 0 stuck\), more than the allowed share"):
        correct(known().scan(bad_cells=marked), CHAIN)
    with pytest.raises(CalibrationError, match="all 1165 cells are marked bad"):
        correct(
            known().scan(bad_cells=np.ones((5, 233), bool)), (CHAIN[0], Step.of("bad_cells", largest_share=1), CHAIN[2])
        )


def test_rings_are_taken_out(known, rng):
    """Gain errors of 0.5 % in every cell under noise of 0.7 %. What a high-pass of 17 cells can see is found to a
    third; a running mean over 9 cells, which it cannot tell from the object, is left out of the comparison."""
    scene = known(views=300, columns=701)
    shifts = 0.005 * rng.standard_normal((5, 701))
    sinogram = (scene.integrals + shifts + 0.007 * rng.standard_normal(scene.integrals.shape)).astype(np.float32)
    left = sinogram.copy()
    record = dict(Ring.of(Step("ring"), 701).apply(left).settings)
    before, after = ((one - scene.integrals).mean(axis=0) for one in (sinogram, left))
    before, after = (one - uniform_filter1d(one, 9, axis=1) for one in (before, after))
    assert after[:, 20:-20].std() < 0.33 * before[:, 20:-20].std()
    assert record["rms_shift"] == pytest.approx(shifts.std(), rel=0.2)


@pytest.mark.parametrize("centre_mm", [(7.0, -11.0), (0.0, 0.0)])
def test_the_object_is_left_alone(known, rng, centre_mm):
    """No cell errors: a body with a rod, and a centred cylinder whose rim stands still in the sinogram. What ring
    takes away is a tenth of a gain error of 0.5 %, with noise and without."""
    axes = (171.0, 118.0) if centre_mm[0] else (143.0, 143.0)
    scene = known(axes, centre_mm, views=300, columns=701)
    rod = known((9.0, 9.0), (63.0, 20.0), views=300, columns=701).integrals
    truth = scene.integrals + rod
    for noise in (0.0, 0.007):
        sinogram = (truth + noise * rng.standard_normal(truth.shape)).astype(np.float32)
        left = sinogram.copy()
        Ring.of(Step("ring"), 701).apply(left)
        assert np.sqrt(np.mean((left - sinogram) ** 2)) < 5e-4


def test_a_wire_on_the_axis_is_structure_and_not_a_ring(known):
    """It stands in the same columns in all views, but a shift of 0.3 is no gain error."""
    scene = known(views=300)
    sinogram = scene.integrals.astype(np.float32)
    sinogram[:, :, 117] += 0.3
    left = sinogram.copy()
    Ring.of(Step("ring"), 233).apply(left)
    assert np.abs(left - sinogram)[:, :, 117].max() < 1e-3


def test_a_drifting_cell_is_followed(known, rng):
    """Gain of cells rising linearly over four turns: segments of a turn leave a third of what one segment leaves."""
    turn = known(views=200, columns=701).integrals
    truth = np.concatenate([turn] * 4)
    shift = np.zeros((5, 701))
    shift[:, 240:461:17] = 0.01
    drift = np.linspace(-1, 1, 800)[:, None, None] * shift
    sinogram = (truth + drift + 0.003 * rng.standard_normal(drift.shape)).astype(np.float32)
    whole, parts = sinogram.copy(), sinogram.copy()
    Ring.of(Step("ring"), 701).apply(whole)
    Ring.of(Step.of("ring", views=200), 701).apply(parts)
    cells = shift > 0
    rest = [np.abs((one - truth)[:, cells].reshape(16, 50, -1).mean(1)).mean() for one in (whole, parts)]
    assert rest[1] < 0.33 * rest[0]


def test_ring_settings_that_make_no_sense_are_refused():
    with pytest.raises(RecipeError, match="columns 8 must be odd"):
        Ring.of(Step.of("ring", columns=8), 233)
    with pytest.raises(RecipeError, match="narrower than the high-pass"):
        Ring.of(Step("ring"), 11)
    with pytest.raises(RecipeError, match="views 3 None or ≥ 32"):
        Ring.of(Step.of("ring", views=3), 233)
