"""The chain as a whole: what it refuses before working, what it writes down, and that counts become integrals."""

import dataclasses

import numpy as np
import pytest

from lampyris.correct import block as blocks
from lampyris.correct import correct
from lampyris.model import CalibrationError, Geometry, Noise, RawScan, RecipeError, Step
from lampyris.physics.tube import monochromatic


def steps(*names):
    return tuple(Step(name) for name in names)


BASIC = steps("dark_air", "log")


def test_counts_become_line_integrals(known):
    """Counts equal to their means give the integrals less the bias that is taken out: float32 is all that is left."""
    scene = known()
    made = correct(scene.scan(), BASIC)
    assert np.abs(made.integrals - scene.expected).max() < 1e-5
    assert np.abs(made.integrals - scene.integrals).max() < 1e-3
    assert made.geometry is scene.geometry
    assert made.water_per_mm is None
    assert made.exposure_mas is not None


def test_every_focal_spot_has_its_own_air(known):
    scene = known()
    air = np.stack([scene.open_counts, 1.3 * scene.open_counts])
    lit = scene.means * np.where(np.arange(41) % 2, 1.3, 1.0)[:, None, None]
    made = correct(scene.scan(lit, air=(air + scene.dark).astype(np.float32)), BASIC)
    assert np.abs(made.integrals - scene.expected)[::2].max() < 1e-5
    assert np.abs(made.integrals - scene.integrals)[1::2].max() < 1e-3


def test_blocks_leave_no_seam(known, rng, monkeypatch):
    """The same scan in blocks of 16 views and in one: starved rays look over the block's border."""
    scene = known(open_counts=900.0)
    scan = scene.scan(rng.poisson(scene.means))
    whole = correct(scan, BASIC)
    monkeypatch.setattr(blocks, "CELLS_PER_BLOCK", 1)
    parts = correct(scan, BASIC)
    assert parts.history == whole.history
    assert parts.integrals == pytest.approx(whole.integrals, abs=2e-5)
    assert parts.weights == pytest.approx(whole.weights, rel=1e-4)


def test_the_scan_itself_stays_as_it_was(known):
    scan = known().scan()
    counts = np.asarray(scan.counts).astype(np.float32)
    scan = dataclasses.replace(scan, counts=counts, id="")
    before = counts.copy()
    correct(scan, steps("dark_air", "bad_cells", "scatter", "log", "ring"))
    assert (counts == before).all()


def test_progress_climbs_to_one(known):
    told = []
    correct(known().scan(), steps("dark_air", "log", "ring"), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


def test_history_names_every_step_in_order(known):
    scan = known().scan(spectrum=monochromatic(70.0))
    names = ("dark_air", "bad_cells", "scatter", "log", "water_beam_hardening", "ring")
    made = correct(scan, steps(*names))
    assert tuple(one.name for one in made.history) == names
    assert dict(made.history[0].settings)["exposure_over_air"] == pytest.approx(
        [scan.exposure_mas.min() / 2.5, scan.exposure_mas.max() / 2.5]
    )
    assert made.scan_id == scan.id


def test_what_the_scanner_made_is_not_made_again(known):
    """Counts without dark as a DICOM-CT-PD reader reconstitutes them, N·exp(−p): no dark is subtracted, no cell mended,
    no hardening corrected, and the water value of the scanner is handed on."""
    scene = known()
    done = ("dark_air", "bad_cells", "water_beam_hardening", "scatter")
    scan = scene.scan(applied=done, dark=None, water_per_mm=0.0192)
    counts = scene.means
    scan = dataclasses.replace(scan, counts=counts, air=scene.open_counts[None].astype(np.float32), id="")
    made = correct(scan, steps("dark_air", "bad_cells", "scatter", "log", "water_beam_hardening"))
    assert np.abs(made.integrals - scene.expected).max() < 1e-5
    assert [one.name for one in made.history] == [*done, "log"]
    assert all(dict(one.settings) == {"made_by": "scanner"} for one in made.history[:-1])
    assert made.water_per_mm == 0.0192


def test_transmissions_without_air_pass_when_the_scanner_made_dark_and_air(known):
    scene = known()
    scan = scene.scan(np.exp(-scene.integrals) - scene.dark, applied=("dark_air",), dark=None, air=None, noise=None)
    scan = dataclasses.replace(scan, exposure_mas=np.full(41, 1.0), air_exposure_mas=1.0, id="")
    made = correct(scan, steps("log"))
    assert np.abs(made.integrals - scene.integrals).max() < 5e-3  # 0.5/quanta, with 1e5 quanta assumed in air


def test_synchrotron_counts_without_spectrum_stay_without_water(rng):
    """Parallel beam, dark and air only: integrals, relative weights, no HU."""
    geometry = Geometry.parallel_beam(np.linspace(0, 179, 31), rows=2, columns=47, cell_mm=(0.9, 0.9))
    truth = np.broadcast_to(1.1 * np.exp(-(((np.arange(47) - 21) / 9.0) ** 2)), geometry.shape)
    air, dark = np.full((2, 47), 31000.0), np.full((2, 47), 110.0)
    scan = RawScan(
        (dark + (air - dark) * np.exp(-truth)).astype(np.uint16), geometry, np.ones(31),
        dark.astype(np.float32), air.astype(np.float32),
    )  # fmt: skip
    made = correct(scan, BASIC)
    assert np.abs(made.integrals - truth).max() < 3e-4
    assert made.water_per_mm is None
    assert made.weights[0, 0, 0] / made.weights[0, 0, 21] == pytest.approx(
        np.exp(truth[0, 0, 21] - truth[0, 0, 0]), rel=2e-3
    )
    assert dict(made.history[1].settings)["noise"] == "assumed"


@pytest.mark.data
def test_real_synchrotron_counts_go_through(shared_data):
    """tooth.h5: the tooth attenuates, the air beside it does not; no NaN."""
    import h5py

    with h5py.File(shared_data / "raw" / "tooth.h5") as file:
        counts, white, black = (file[f"exchange/{name}"][...] for name in ("data", "data_white", "data_dark"))
    views, rows, columns = counts.shape
    geometry = Geometry.parallel_beam(np.arange(views) * 1.0, rows=rows, columns=columns, cell_mm=(1.0, 1.0))
    scan = RawScan(counts, geometry, np.ones(views), black.mean(0).astype("f4"), white.mean(0).astype("f4"))
    made = correct(scan, steps("dark_air", "bad_cells", "log", "ring"))
    assert np.isfinite(made.integrals).all()
    assert abs(np.median(made.integrals[:, :, :40])) < 0.05
    assert np.median(made.integrals[:, :, 280:310]) > 0.5


def test_unknown_repeated_and_misplaced_steps_are_refused(known):
    scan = known().scan()
    with pytest.raises(RecipeError, match="magic is not known; known are dark_air, bad_cells, scatter, log"):
        correct(scan, steps("dark_air", "magic", "log"))
    with pytest.raises(RecipeError, match="expected each once, in the order"):
        correct(scan, steps("dark_air", "log", "scatter"))
    with pytest.raises(RecipeError, match="expected each once"):
        correct(scan, steps("dark_air", "dark_air", "log"))
    with pytest.raises(RecipeError, match="lack log"):
        correct(scan, steps("dark_air"))
    with pytest.raises(RecipeError, match="lack dark_air"):
        correct(scan, steps("log"))
    with pytest.raises(RecipeError, match="no setting strength; it knows columns"):
        correct(scan, (*BASIC, Step.of("ring", strength=3)))
    with pytest.raises(RecipeError, match="its logarithm is taken"):
        correct(known().scan(applied=("dark_air", "log")), BASIC)


def test_missing_calibration_is_refused_with_what_is_missing(known):
    scene = known()
    with pytest.raises(CalibrationError, match="no dark and air map"):
        correct(scene.scan(dark=None, air=None), BASIC)
    with pytest.raises(CalibrationError, match="no air map"):
        correct(scene.scan(air=None), BASIC)
    with pytest.raises(CalibrationError, match="needs the spectrum"):
        correct(scene.scan(), (*BASIC, Step("water_beam_hardening")))


def test_calibration_of_another_scanner_is_refused(known):
    with pytest.raises(CalibrationError, match="another collimation"):
        known().scan(air=np.ones((1, 5, 232), np.float32))
    with pytest.raises(CalibrationError, match="another collimation"):
        known().scan(dark=np.zeros((4, 233), np.float32))
    bad = np.ones((1, 5, 233), np.float32)
    bad[0, 2, 3] = np.nan
    with pytest.raises(CalibrationError, match="1 NaN"):
        known().scan(air=bad)


def test_an_air_scan_with_the_beam_off_is_refused(known):
    scene = known()
    with pytest.raises(CalibrationError, match="air is nowhere above dark"):
        correct(scene.scan(air=np.zeros((1, 5, 233), np.float32)), BASIC)
    with pytest.raises(CalibrationError, match="dark and air exchanged"):
        correct(scene.scan(air=scene.dark[None].astype(np.float32) - 1), BASIC)


def test_an_air_exposure_in_another_unit_is_refused(known):
    """mAs for the views and µAs for air: everything outshines air by a thousand."""
    with pytest.raises(CalibrationError, match=r"1e\+03× the counts of air at the same exposure"):
        correct(known().scan(air_exposure_mas=2500.0), BASIC)


def test_dead_cells_must_be_marked_or_mended(known):
    scene = known()
    air = (scene.open_counts + scene.dark)[None].astype(np.float32)
    air[0, 3, 17] = scene.dark[3, 17]
    with pytest.raises(CalibrationError, match="first at row 3, column 17"):
        correct(scene.scan(air=air), BASIC)
    marked = np.zeros((5, 233), bool)
    marked[3, 17] = True
    made = correct(scene.scan(air=air, bad_cells=marked), BASIC)
    assert (made.weights[:, 3, 17] == 0).all()
    assert np.isfinite(made.integrals).all()


def test_nan_in_counts_is_refused_with_the_view(known):
    scan = known().scan()
    counts = np.array(scan.counts)
    counts[29, 1, 7] = np.nan
    with pytest.raises(CalibrationError, match="1 NaN or infinite values, first in view 29"):
        correct(dataclasses.replace(scan, counts=counts, id="x"), BASIC)


def test_weights_are_the_inverse_variance_of_the_integrals(known, rng):
    """300 noisy copies of one view: weight × measured variance is 1 to 5 standard errors √(2/300)/√cells, plus the
    next order of the variance, 2.5/quanta ≤ 1 %; rays behind the object and beside it."""
    scene = known(views=5, open_counts=40_000.0)
    gain = 2.5
    copies = []
    for _ in range(300):
        noisy = gain * rng.poisson(scene.means / gain) + 3.0 * rng.standard_normal(scene.means.shape)
        made = correct(scene.scan(noisy, noise=Noise(gain, 3.0)), BASIC)
        copies.append(made.integrals[2])
        weights = made.weights[2]
    ratio = np.var(copies, axis=0) * weights
    for part in (scene.integrals[2] < 0.01, (scene.integrals[2] > 3.0) & (scene.means[2] > 700)):
        assert part.sum() > 100
        assert ratio[part].mean() == pytest.approx(1.0, abs=5 * np.sqrt(2 / 300 / part.sum()) + 0.02)
