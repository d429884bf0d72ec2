"""What an image says of its making, from projections, recipe and assessment."""

import dataclasses

import numpy as np
import pydicom
import pytest

from lampyris.dicom import Provenance, write_series
from lampyris.model import (
    Applied,
    Assessment,
    Figure,
    FocalSpotShift,
    Gantry,
    Geometry,
    InputError,
    Projections,
    Spectrum,
    Step,
)

GANTRY = Gantry(541.0, 949.0, 3, 5, (1.7, 2.9))
VIEWS, PER_TURN = 90, 41


@pytest.fixture
def projections(acquisition) -> Projections:
    """A little more than two turns of a helix with a flying focal spot, 0.7 mAs a view."""
    spots = FocalSpotShift.alternating(VIEWS, angular_rad=(-0.0009, 0.0011))
    geometry = Geometry.helical(
        GANTRY, views=VIEWS, views_per_turn=PER_TURN, table_feed_mm=-6.3, start_angle_deg=23.0, shift=spots
    )
    ones = np.ones(geometry.shape, np.float32)
    spectrum = Spectrum(np.array([60.0]), np.array([1e6]), np.array([60.0]), 60.0)
    return Projections(
        ones,
        ones,
        geometry,
        spectrum=spectrum,
        acquisition=acquisition,
        exposure_mas=np.full(VIEWS, 0.7),
        history=(Applied.of("log"),),
        scan_id="abc",
    )


def test_exposure_is_told_per_turn(projections, recipe):
    """0.7 mAs a view, 41 views and half a second a turn: 28.7 mAs in 500 ms, 57.4 mA.

    The focal spot swings by 2 mrad, so that the 13.6 rad of the scan are known to 1.5e-4.
    """
    exposure = Provenance.of(projections, recipe).exposure
    assert exposure.ExposureInmAs == pytest.approx(28.7, rel=5e-4)
    assert exposure.XRayTubeCurrentInmA == pytest.approx(57.4, rel=5e-4)
    assert (exposure.ExposureTimeInms, exposure.ExposureModulationType) == (500.0, "NONE")


def test_modulation_is_told_and_an_unknown_turn_time_leaves_only_the_charge(projections, recipe, acquisition):
    rising = np.linspace(0.2, 1.2, VIEWS)
    slow = dataclasses.replace(
        projections, exposure_mas=rising, acquisition=dataclasses.replace(acquisition, RevolutionTime=None)
    )
    exposure = Provenance.of(slow, recipe).exposure
    assert (exposure.XRayTubeCurrentInmA, exposure.ExposureModulationType) == (None, "PER_VIEW")
    assert exposure.ExposureInmAs == pytest.approx(0.7 * PER_TURN, rel=5e-4)


def test_exposure_without_a_spectrum_may_be_relative_and_is_not_told(projections, recipe):
    exposure = Provenance.of(dataclasses.replace(projections, spectrum=None), recipe).exposure
    assert exposure.ExposureInmAs is None


def test_a_point_of_the_axis_is_seen_for_one_pitch_th_of_a_turn(projections, recipe, acquisition):
    assert Provenance.of(projections, recipe).ReconstructionAngle == pytest.approx(360 / 1.2)
    still = dataclasses.replace(acquisition, SpiralPitchFactor=None)
    short = Geometry.circular(GANTRY, np.arange(30) * 7.0)
    ones = np.ones(short.shape, np.float32)
    axial = dataclasses.replace(
        projections, integrals=ones, weights=ones, geometry=short, acquisition=still, exposure_mas=None
    )
    assert Provenance.of(axial, recipe).ReconstructionAngle == pytest.approx(210.0)


def test_dose_and_verdict_come_from_the_assessment(projections, recipe):
    figures = (
        Figure("ctdivol", 3.2, "mGy", "reported"),
        Figure("dlp", 96.0, "mGy·cm", "estimated"),
        Figure("ssde", 4.1, "mGy", "estimated"),
        Figure("wed", 29.5, "cm"),
        Figure("noise", 12.0, "HU"),
    )
    made = Provenance.of(projections, recipe, Assessment(figures, verdict="stop", reasons=("rings",)))
    assert (made.dose.CTDIvol, made.dose.DLP, made.dose.SSDE, made.dose.WaterEquivalentDiameter) == (
        3.2,
        96.0,
        4.1,
        295.0,
    )
    assert (made.verdict, made.reasons) == ("stop", ("rings",))
    assert (made.scan_id, made.kernel, made.SliceThickness) == ("abc", "body", 1.0)
    assert made.history == (Applied.of("log"),)


@pytest.mark.parametrize(
    ("kernel", "group"),
    [("body", "SOFT_TISSUE"), ("lung", "LUNG"), ("bone-sharp", "BONE"), ("ramp", None), ("shepp-logan", None)],
)
def test_the_group_of_a_kernel_is_told_where_its_name_tells(kernel, group, recipe):
    assert Provenance("s", recipe=dataclasses.replace(recipe, kernel=kernel)).kernel_group == group


def test_only_analytic_methods_are_called_filtered_backprojection(recipe):
    assert Provenance("s", recipe=recipe).algorithm == "FILTER_BACK_PROJ"
    iterative = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, name="pwls"))
    assert Provenance("s", recipe=iterative).algorithm is None
    assert Provenance("s", recipe=iterative, ReconstructionAlgorithm="ITERATIVE").algorithm == "ITERATIVE"


DIGEST = "01a7b8c4" * 8
NETWORK = {"denoiser": "firefly-1", "denoiser_sha256": DIGEST}


@pytest.mark.parametrize(
    ("method", "facts"),
    [
        (Step.of("auto", **NETWORK), ("filtered backprojection (auto)", f"network firefly-1 (SHA-256 {DIGEST}) took")),
        (
            Step.of("pwls", prior="hyperbola", strength=20.0, delta_hu=8.0, iterations=18, subsets=16),
            ("weighted least squares", "18 passes", "16 subsets", "hyperbola prior (delta_hu 8, strength 20)"),
        ),
        (Step.of("poisson", prior="tv", iterations=7), ("likelihood of the counted quanta", "7 passes", "a tv prior")),
        (
            Step.of("plug_and_play", **NETWORK, prior="huber", edge=0.35, iterations=12, returns=4, trust=0.25),
            ("12 passes", "huber prior (edge 0.35)", DIGEST, "then 4 passes brought it back", "(trust 0.25)"),
        ),
    ],
    ids=["swift", "model", "poisson", "micro"],
)
@pytest.mark.parametrize("kind", ["ct", "enhanced"])
def test_a_written_image_tells_method_iterations_prior_network_recipe_and_dose(
    method, facts, kind, recipe, acquisition, gantry_volume, patient, tmp_path, now
):
    chosen = dataclasses.replace(recipe, method=method)
    restored = (Applied.of("log"), Applied.of("restore", strength=1.5, sweeps=12))
    told = Provenance("ab" * 32, recipe=chosen, history=restored, acquisition=acquisition)
    volume = gantry_volume.place("HFS", (-3.0, 11.0, 250.0))
    file = write_series(volume, tmp_path / "out", study=patient, provenance=told, now=now, kind=kind)[0]
    image = pydicom.dcmread(file)
    for fact in (*facts, "with kernel body", "raw counts where they are few (strength 1.5)", "10% of the protocol's"):
        assert fact in image.DerivationDescription
    assert "?" not in image.DerivationDescription.replace("in ? subsets", "")  # two leave their subsets unsaid
    assert chosen.digest() in image.ContributingEquipmentSequence[0].ContributionDescription
    assert chosen.digest() in image.ImageComments
    assert image.SeriesDescription.endswith("10% dose")


def test_images_of_two_engines_say_so_and_bear_different_uids(recipe, gantry_volume, patient, tmp_path, now):
    """Their pixels differ in the last digits, and one SOP Instance UID may not stand for two images."""
    volume, uids = gantry_volume.place("HFS", (-3.0, 11.0, 250.0)), {}
    for engine in (None, "cpu", "cuda on a card", "cuda on another"):
        told = Provenance("ab" * 32, recipe=recipe, engine=engine)
        file = write_series(volume, tmp_path / str(engine), study=patient, provenance=told, now=now)[0]
        image = pydicom.dcmread(file)
        described = image.ContributingEquipmentSequence[0].ContributionDescription
        assert (f"by engine {engine}" in described) == (engine is not None)
        uids[engine] = (image.SeriesInstanceUID, image.SOPInstanceUID)
    assert uids[None] == uids["cpu"]
    assert len({each for pair in uids.values() for each in pair}) == 6


def test_the_first_ten_reasons_are_told_and_the_rest_counted(gantry_volume):
    text = Provenance("s", verdict="stop", reasons=tuple(f"reason {n}" for n in range(13))).comments(gantry_volume)
    assert "reason 9; and 3 more." in text
    assert "reason 10" not in text


def test_more_text_than_dicom_holds_is_refused(gantry_volume):
    wordy = Provenance("s", history=tuple(Applied.of(f"correction_{n}_with_a_long_name") for n in range(60)))
    with pytest.raises(InputError, match="DICOM takes 1024"):
        wordy.derivation(gantry_volume)
