"""DICOM-CT-PD: geometry against points made by hand, every tag, files that are transposed, multi-frame or damaged."""

import contextlib
import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from lampyris import raw
from lampyris.model import (
    Acquisition,
    CalibrationError,
    FocalSpotShift,
    FormatError,
    Gantry,
    Geometry,
    GeometryError,
    InputError,
    Noise,
    Projections,
    RawScan,
    SeriesError,
    StorageError,
)
from lampyris.raw import ctpd
from lampyris.raw.ctpd.tags import TAGS, Header, levels

GOLDEN = Path(__file__).parents[1] / "golden"


def integrals(scan: RawScan) -> np.ndarray:
    """−ln of counts over air at the view's exposure: what dark and air correction and the logarithm do."""
    open_ = scan.air * (scan.exposure_mas / scan.air_exposure_mas)[:, None, None]
    return -np.log(np.asarray(scan.counts, np.float64) / open_)


def make_scan(
    gantry: Gantry, views: int, rng, *, flying: bool = True, largest: float = 6.0
) -> tuple[RawScan, np.ndarray]:
    spots = ((-0.0009, 0.0011), (-0.7, 0.5), (0.3, -0.2)) if flying else ()
    geometry = Geometry.helical(
        gantry, views=views, views_per_turn=41, table_feed_mm=-6.3, start_angle_deg=23.0, start_axial_mm=11.0,
        shift=FocalSpotShift.alternating(views, *spots),
    )  # fmt: skip
    p = rng.uniform(-0.1, largest, geometry.shape)
    air = np.broadcast_to(rng.uniform(2e4, 5e4, gantry.columns), geometry.shape[1:])
    exposure = rng.uniform(0.2, 0.5, views)
    counts = 31.0 + air * (exposure / 0.4)[:, None, None] * np.exp(-p)
    scan = RawScan(
        counts,
        geometry,
        exposure,
        dark=np.full(geometry.shape[1:], 31.0),
        air=air + 31.0,
        air_exposure_mas=0.4,
        noise=Noise(2.0, 5.0),
        acquisition=Acquisition(
            PatientPosition="FFP", KVP=100.0, RevolutionTime=0.5, SpiralPitchFactor=0.93, DataCollectionDiameter=500.0,
            Manufacturer="Nobody", ProtocolName="Chest", DataCollectionCenterPatient=(1.0, -2.0, 3.5),
        ),
        applied=("scatter",),
        water_per_mm=0.0192,
    )  # fmt: skip
    return scan, p


@pytest.fixture
def made(lopsided_gantry, rng) -> tuple[RawScan, np.ndarray]:
    return make_scan(lopsided_gantry, 23, rng)


@pytest.fixture
def folder(made, tmp_path) -> Path:
    ctpd.write(made[0], tmp_path / "pd")
    return tmp_path / "pd"


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def test_another_writers_files_give_the_points_of_the_manual():
    """Golden files by an independent script: implicit VR, foreign creators, one frame not transposed."""
    scan = raw.read(GOLDEN / "ctpd")
    expected = np.load(GOLDEN / "ctpd.npz")
    for view in range(3):
        # float32 angles in the file: 2e-7 rad at 1 m
        np.testing.assert_allclose(scan.geometry.cells_mm(view), expected["points"][view], atol=3e-4)
    np.testing.assert_allclose(scan.geometry.source, expected["source"], atol=3e-4)
    np.testing.assert_allclose(integrals(scan), expected["integrals"], atol=3e-7)  # float32 counts
    # mA 220, 180, 200 of 500 ms over 4 steps; N = mA·(10 + column) at the mean exposure
    np.testing.assert_allclose(scan.exposure_mas, np.array([220, 180, 200]) * 0.5 / 4, rtol=1e-6)
    np.testing.assert_allclose(scan.air[0, 1], 200 * (10.0 + np.arange(5)), rtol=1e-6)
    assert (scan.noise, scan.water_per_mm) == (Noise(1.0, 0.0), pytest.approx(0.0192))  # written in 1/cm
    assert scan.applied == ("dark_air", "bad_cells", "water_beam_hardening")
    assert scan.acquisition.PatientPosition == "FFP"
    assert (scan.acquisition.KVP, scan.acquisition.RevolutionTime, scan.acquisition.AcquisitionType) == (
        120.0, 0.5, "SPIRAL",
    )  # fmt: skip


@pytest.mark.parametrize("curved", [True, False])
def test_geometry_is_the_manuals_worked_by_hand(tmp_path, curved):
    """Quarter turn: source at 9 o'clock as seen from the table, column 1 at the bottom right, row 1 farthest in."""
    gantry = Gantry(600.0, 1000.0, 3, 4, (2.0, 5.0), curved, 0.5, 2.0)
    geometry = Geometry.circular(gantry, np.array([-90.0, -120.0]), axial_mm=np.array([7.0, 7.0]))
    counts = np.full(geometry.shape, 0.5)
    scan = RawScan(counts, geometry, np.ones(2), dark=np.zeros((3, 4)), air=np.ones((3, 4)))
    ctpd.write(scan, tmp_path / "pd")
    header = pydicom.dcmread(tmp_path / "pd" / "000001.dcm")
    assert header[0x7031, 0x1001].value == pytest.approx(math.pi / 2)
    assert list(header[0x7031, 0x1033].value) == [pytest.approx(3.0), pytest.approx(2.5)]  # X = 2 + 1, Y = 3 − 0.5
    assert header[0x7029, 0x100B].value == ("CYLINDRICAL" if curved else "FLAT")
    again = ctpd.read(tmp_path / "pd").geometry
    np.testing.assert_allclose(again.source[0], (-600.0, 7.0, 0.0), atol=1e-3)
    cells = again.cells_mm(0)
    # γ of columns 0…3 about X: −2, −1, 0, 1 steps of 5 mm: along +z at this angle, and towards the source on the arc
    step = np.arange(-2, 2) * 5.0
    z, x = (1000 * np.sin(step / 1000), -600 + 1000 * np.cos(step / 1000)) if curved else (step, np.full(4, 400.0))
    np.testing.assert_allclose(cells[:, :, 2], np.broadcast_to(z, (3, 4)), atol=1e-3)
    np.testing.assert_allclose(cells[:, :, 0], np.broadcast_to(x, (3, 4)), atol=1e-3)
    # our row 0 is the nearest to the table: y = 7 + (0 − 0.5)·2
    np.testing.assert_allclose(cells[:, 0, 1], [6.0, 8.0, 10.0], atol=1e-3)


@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize("curved", [True, False])
def test_a_scan_comes_back(lopsided_gantry, rng, tmp_path, multiframe, curved):
    scan, p = make_scan(dataclasses.replace(lopsided_gantry, curved=curved), 23, rng)
    ctpd.write(scan, tmp_path / "pd", multiframe=multiframe)
    again = raw.read(tmp_path / "pd")
    for name, allowed in (("source", 3e-4), ("detector", 3e-4), ("u", 2e-6), ("v", 2e-6)):
        np.testing.assert_allclose(getattr(again.geometry, name), getattr(scan.geometry, name), atol=allowed)
    half_step = (p.max() - p.min()) / 65535 / 2
    assert np.abs(integrals(again) - p).max() < half_step + 1e-6
    # quanta in air: net air over gain, per column, at the mean exposure of the views
    expected = (scan.air[0, 0] - 31.0) / 2.0 * (again.air_exposure_mas / 0.4)
    # the format keeps whole mA, here of some 30: what the mean exposure loses, air at it loses too
    kept = again.exposure_mas.mean() / scan.exposure_mas.mean()
    np.testing.assert_allclose(again.air[0, 3], expected / kept, rtol=1e-5)
    np.testing.assert_allclose(
        again.exposure_mas / again.exposure_mas.mean(), scan.exposure_mas / scan.exposure_mas.mean(), rtol=1e-6
    )
    np.testing.assert_allclose(again.exposure_mas, scan.exposure_mas, rtol=2e-2)
    assert again.applied == ("dark_air", "scatter")
    assert again.water_per_mm == 0.0192
    kept = ("PatientPosition", "KVP", "RevolutionTime", "SpiralPitchFactor", "DataCollectionDiameter", "Manufacturer",
            "ProtocolName", "DataCollectionCenterPatient")  # fmt: skip
    assert [getattr(again.acquisition, k) for k in kept] == [getattr(scan.acquisition, k) for k in kept]
    assert again.acquisition.TableFeedPerRotation == pytest.approx(6.3, rel=1e-5)


def test_our_chain_gives_the_integrals_back(made, folder):
    """The counts made from integrals go through dark, air and logarithm to what was stored."""
    from lampyris.correct import chain
    from lampyris.model import Step

    corrected = chain.correct(raw.read(folder), (Step.of("log"),))
    strong = made[1] < 3  # many quanta: the bias term of the logarithm is 0.5/quanta < 1e-3
    np.testing.assert_allclose(corrected.integrals[strong], made[1][strong], atol=2e-3)


EXPECTED = {
    "NumberofDetectorRows": 7, "NumberofDetectorColumns": 61, "DetectorElementTransverseSpacing": 2.9,
    "DetectorElementAxialSpacing": 1.7, "DetectorShape": "CYLINDRICAL", "DetectorFocalCenterRadialDistance": 541.05,
    "ConstantRadialDistance": 949.0, "FlyingFocalSpotMode": "FFSXYZ", "NumberofSourceAngularSteps": 41,
    "NumberofSpectra": 1, "SpectrumIndex": 1, "TypeofProjectionData": "HELICAL", "TypeofProjectionGeometry": "FANBEAM",
    "BeamHardeningCorrectionFlag": "NO", "GainCorrectionFlag": "YES", "DarkFieldCorrectionFlag": "YES",
    "FlatFieldCorrectionFlag": "YES", "BadPixelCorrectionFlag": "NO", "ScatterCorrectionFlag": "YES", "LogFlag": "YES",
    "WaterAttenuationCoefficient": 0.0192, "InstanceNumber": 5, "KVP": 100.0, "ExposureTime": 500,
    "SpiralPitchFactor": 0.93, "DataCollectionDiameter": 500.0, "PatientPosition": "FFP", "Manufacturer": "Nobody",
    "ProtocolName": "Chest", "DataCollectionCenterPatient": (1.0, -2.0, 3.5),
}  # fmt: skip


@pytest.fixture
def header(folder) -> Header:
    dataset = pydicom.dcmread(folder / "000005.dcm")
    return Header(levels(dataset, 1)[0], "view 5")


@pytest.mark.parametrize("keyword", EXPECTED)
def test_constant_tag_holds_its_value(header, keyword):
    found, wanted = header.values(keyword), EXPECTED[keyword]
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    assert found == (pytest.approx(wanted, rel=2e-3) if not isinstance(wanted[0], str) else wanted)


def test_tags_of_a_view_hold_its_values(made, header):
    """View 4 (0-based): φ = 23° + 4/41 turn clockwise = −φ0; spot −0.0009 rad, −0.7 and 0.3 mm about their means."""
    turn = 4 / 41
    total = header.number("DetectorFocalCenterAngularPosition") + header.number("SourceAngularPositionShift")
    assert total % (2 * math.pi) == pytest.approx(-(math.radians(23 + 360 * turn) - 0.0009) % (2 * math.pi), abs=1e-6)
    height = header.number("DetectorFocalCenterAxialPosition") + header.number("SourceAxialPositionShift")
    assert height == pytest.approx(11.0 - 6.3 * turn - 0.7, abs=1e-4)
    radius = header.number("DetectorFocalCenterRadialDistance") + header.number("SourceRadialDistanceShift")
    assert radius == pytest.approx(541.3, abs=1e-3)
    x, y = header.values("DetectorCentralElement")
    assert x == pytest.approx(32.25, abs=1e-3)
    # our row 2.6 from below is 7 − 2.6 from above; a mean axial shift cannot be told from it and belongs to the row
    assert y == pytest.approx(4.4, abs=0.1)
    scan = made[0]
    quanta = (scan.air[0, 0] - 31.0) / 2.0 * scan.exposure_mas[4] / 0.4
    np.testing.assert_allclose(header.values("PhotonStatistics"), quanta, rtol=1e-5)
    assert header.number("Timestamp") == pytest.approx(500.0 * turn, rel=1e-5)
    assert header.number("XRayTubeCurrent") == round(scan.exposure_mas[4] / (0.5 / 41))
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    assert (slope, intercept) == (
        pytest.approx(np.ptp(made[1][4]) / 65535, rel=1e-4), pytest.approx(made[1][4].min(), abs=1e-5)
    )  # fmt: skip


def test_every_tag_of_the_table_is_covered():
    per_view = {
        "DetectorFocalCenterAngularPosition", "DetectorFocalCenterAxialPosition", "DetectorCentralElement",
        "SourceAngularPositionShift", "SourceAxialPositionShift", "SourceRadialDistanceShift", "PhotonStatistics",
        "Timestamp", "XRayTubeCurrent", "RescaleSlope", "RescaleIntercept",
    }  # fmt: skip
    elsewhere = {
        "HUCalibrationFactor", "ManufacturerModelName", "BodyPartExamined", "FrameOfReferenceUID", "SeriesInstanceUID",
    }  # fmt: skip
    assert set(TAGS) == set(EXPECTED) | per_view | elsewhere


def test_raw_bytes_are_decoded_by_the_table(folder):
    def rename(dataset):
        for tag in [each for each in dataset.keys() if each.group % 2 and each.element > 0xFF]:  # noqa: SIM118
            element = dataset[tag]
            vr = next(each.vr for each in TAGS.values() if each.number == int(tag))
            kind = {"US": "<u2", "FL": "<f4"}.get(vr)
            content = np.atleast_1d(element.value).astype(kind).tobytes() if kind else str(element.value).encode()
            del dataset[tag]
            dataset.add_new(tag, "UN", content + b" " * (len(content) % 2))
        for tag in [each for each in dataset.keys() if each.group % 2 and each.element == 0x10]:  # noqa: SIM118
            dataset[tag].value = "ACME PROJECTIONS"

    before = ctpd.read(folder)
    for path in folder.iterdir():
        edit(path, rename)
    again = ctpd.read(folder)
    assert again.id == before.id


def test_frames_stored_either_way_are_the_same(folder):
    before = ctpd.read(folder)

    def turn(dataset):
        pixels = dataset.pixel_array.T
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()

    edit(folder / "000003.dcm", turn)
    assert ctpd.read(folder).id == before.id


def test_order_is_by_instance_number_not_by_name(folder):
    before = ctpd.read(folder)
    names = sorted(folder.iterdir())
    for place, path in enumerate(names):
        path.rename(folder / f"{(place * 7) % 23:03d}.ima")
    (folder / "LICENSE.txt").write_text("not DICOM")
    assert ctpd.read(folder).id == before.id


def test_an_empty_first_item_of_a_multiframe_file_stands_for_no_frame(made, tmp_path):
    ctpd.write(made[0], tmp_path / "pd", multiframe=True)
    before = ctpd.read(tmp_path / "pd")
    path = tmp_path / "pd" / "projections.dcm"

    def prepend(dataset):
        items = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset(), *items])

    edit(path, prepend)
    assert ctpd.read(path).id == before.id


def test_an_empty_first_item_takes_what_is_shared(made, tmp_path):
    """The first frame's tags may stand in (5200,9229) or in the root instead."""
    ctpd.write(made[0], tmp_path / "pd", multiframe=True)
    before = ctpd.read(tmp_path / "pd")

    def move(dataset):
        items = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.SharedFunctionalGroupsSequence = Sequence([items[0]])
        dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset(), *items[1:]])

    edit(tmp_path / "pd" / "projections.dcm", move)
    assert ctpd.read(tmp_path / "pd").id == before.id


def test_without_statistics_noise_is_not_known(made, tmp_path):
    scan, p = made
    ctpd.write(dataclasses.replace(scan, noise=None, id=""), tmp_path / "pd")
    again = ctpd.read(tmp_path / "pd")
    assert again.noise is None
    assert (again.air == 1).all()
    np.testing.assert_allclose(integrals(again), p, atol=5e-5)


def test_projections_after_correction_set_the_flags(made, tmp_path):
    from lampyris.model import Applied

    scan, p = made
    values = p.astype(np.float32)
    corrected = Projections(
        values, np.ones_like(values), scan.geometry, water_per_mm=0.0201,
        history=(Applied.of("dark_air"), Applied.of("bad_cells"), Applied.of("water_beam_hardening")),
    )  # fmt: skip
    ctpd.write(scan, tmp_path / "pd", projections=corrected)
    again = ctpd.read(tmp_path / "pd")
    assert again.applied == ("dark_air", "bad_cells", "scatter", "water_beam_hardening")
    assert again.water_per_mm == 0.0201
    np.testing.assert_allclose(integrals(again), p, atol=5e-5)


def test_one_of_two_spectra_is_chosen(folder):
    for number in range(1, 24):
        edit(folder / f"{number:06d}.dcm", lambda d, n=number: (
            d[0x7033, 0x1061].__setattr__("value", 2), d[0x7033, 0x1063].__setattr__("value", 1 + n % 2)))  # fmt: skip
    with pytest.raises(InputError, match="2 spectra: choose one"):
        ctpd.read(folder)
    assert ctpd.read(folder, spectrum_index=2).views == 12
    with pytest.raises(InputError, match="no projection has SpectrumIndex 3"):
        ctpd.read(folder, spectrum_index=3)


@pytest.mark.parametrize(("value", "per_mm"), [("0.0192", 0.0192), ("0.192", 0.0192)])
def test_water_is_told_by_magnitude(folder, value, per_mm):
    for path in folder.iterdir():
        edit(path, lambda d: d[0x7041, 0x1001].__setattr__("value", value))
    assert ctpd.read(folder).water_per_mm == pytest.approx(per_mm)


def test_water_of_no_unit_is_refused(folder):
    for path in folder.iterdir():
        edit(path, lambda d: d[0x7041, 0x1001].__setattr__("value", "19.2"))
    with pytest.raises(FormatError, match=r"19\.2 is neither in 1/mm"):
        ctpd.read(folder)


def test_version_8_water_is_found(folder):
    def change(dataset):
        del dataset[0x7041, 0x1001]
        dataset.add_new(0x00180061, "DS", "0.0195")

    for path in folder.iterdir():
        edit(path, change)
    assert ctpd.read(folder).water_per_mm == 0.0195


def test_transmissions_are_not_taken_for_integrals(folder):
    """LogFlag NO: raw·slope + intercept is the transmission, and counts are it times the quanta."""
    before = integrals(ctpd.read(folder))
    for path in folder.iterdir():
        edit(path, lambda d: d[0x7039, 0x1009].__setattr__("value", "NO"))
    again = ctpd.read(folder)
    open_ = again.air * (again.exposure_mas / again.air_exposure_mas)[:, None, None]
    np.testing.assert_allclose(np.asarray(again.counts) / open_, before, atol=1e-5)


def test_a_scan_without_dark_and_air_correction_says_so(folder):
    for path in folder.iterdir():
        edit(path, lambda d: d[0x7039, 0x1005].__setattr__("value", "NO"))
    again = ctpd.read(folder)
    assert "dark_air" not in again.applied
    assert (again.air, again.dark, again.noise) == (None, None, None)


# ---- refusals


def test_a_missing_projection_is_named(folder):
    (folder / "000007.dcm").unlink()
    with pytest.raises(SeriesError, match="1 projections are missing, InstanceNumber 7"):
        raw.read(folder)


def test_a_doubled_projection_is_named(folder):
    shutil.copy(folder / "000007.dcm", folder / "copy.dcm")
    with pytest.raises(SeriesError, match="InstanceNumber 7 stands in more than one file"):
        raw.read(folder)


def test_two_series_in_one_folder_are_refused(folder):
    edit(folder / "000009.dcm", lambda d: setattr(d, "SeriesInstanceUID", "1.2.3"))
    with pytest.raises(SeriesError, match=r"SeriesInstanceUID is .* two scans"):
        raw.read(folder)


@pytest.mark.parametrize(
    ("tag", "value", "error", "says"),
    [
        ((0x7029, 0x100B), "SPHERICAL", GeometryError, "SPHERICAL is not"),
        ((0x7037, 0x100A), "PARALLEL", GeometryError, "FANBEAM is understood"),
        ((0x7029, 0x1006), -1.0, GeometryError, "expected > 0"),
        ((0x7031, 0x1003), 2000.0, GeometryError, "first < second"),
        ((0x7031, 0x1001), float("nan"), FormatError, "NaN"),
        ((0x7039, 0x1009), "PERHAPS", FormatError, "expected YES or NO"),
        ((0x7033, 0x1065), [1.0, 2.0], FormatError, "2 values for 61 columns"),
        ((0x7033, 0x1065), [0.0], CalibrationError, "PhotonStatistics ≤ 0"),
        ((0x7031, 0x1033), [3.0], FormatError, "1 values, expected 2"),
        ((0x7029, 0x1011), 60, FormatError, r"frame of \(61, 7\), detector of 7 rows × 60"),
    ],
)
def test_a_wrong_tag_is_refused(folder, tag, value, error, says):
    for path in folder.iterdir():

        def change(dataset):
            dataset[tag].value = value
            if tag == (0x7029, 0x1011):
                del dataset[0x7033, 0x1065]

        edit(path, change)  # fmt: skip
    with pytest.raises(error, match=says):
        raw.read(folder)


def test_a_changing_arc_is_refused(folder):
    edit(folder / "000009.dcm", lambda d: d[0x7031, 0x1031].__setattr__("value", 950.0))
    with pytest.raises(GeometryError, match=r"varies by 1\.000 mm"):
        raw.read(folder)


def test_a_missing_tag_is_named(folder):
    edit(folder / "000009.dcm", lambda d: d.__delitem__((0x7031, 0x1002)))
    with pytest.raises(FormatError, match=r"000009.dcm: DetectorFocalCenterAxialPosition \(7031,1002\) has 0 values"):
        raw.read(folder)


def test_an_image_series_is_no_projection_data(folder):
    for path in folder.iterdir():
        edit(path, lambda d: d.__delitem__((0x7029, 0x1010)))
    with pytest.raises(FormatError, match="none of"):
        raw.read(folder)


def test_absurd_integrals_are_refused(folder):
    edit(folder / "000009.dcm", lambda d: setattr(d, "RescaleIntercept", "-90000"))
    with pytest.raises(FormatError, match="wrong rescale"):
        raw.read(folder)


def test_truncated_files_are_refused(folder):
    path = folder / "000009.dcm"
    whole = path.read_bytes()
    for share in (0.3, 0.8, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError):
            raw.read(folder)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of odd values that it lets pass
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_refused_or_read(tmp_path, place, bit, cut):
    """A flipped bit may give another number: never another exception than ours."""
    content = bytearray((GOLDEN / "ctpd" / "view_1.dcm").read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    (tmp_path / "x.dcm").write_bytes(content[:at] if cut else content)
    with contextlib.suppress(InputError, StorageError):
        np.asarray(ctpd.read(tmp_path / "x.dcm").counts)


def test_a_scan_without_photons_is_not_clipped(made, tmp_path):
    scan, _ = made
    counts = np.array(scan.counts)
    counts[5, 3, 3] = 30.0
    with pytest.raises(CalibrationError, match="1 rays of view 5 have no photons left"):
        ctpd.write(dataclasses.replace(scan, counts=counts, id=""), tmp_path / "pd")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lacking", ["air", "dark"])
def test_a_scan_without_calibration_is_refused(made, tmp_path, lacking):
    with pytest.raises(CalibrationError, match=f"no {lacking} map"):
        ctpd.write(dataclasses.replace(made[0], **{lacking: None, "id": ""}), tmp_path / "pd")


def test_what_the_format_cannot_tell_is_refused(lopsided_gantry, tmp_path):
    tilted = Geometry.circular(dataclasses.replace(lopsided_gantry, tilt_deg=5.0), np.arange(0, 90, 9.0))
    parallel = Geometry.parallel_beam(np.arange(0, 180, 9.0), rows=7, columns=61, cell_mm=(1.0, 1.0))
    for geometry, says in ((tilted, "tilted by 5.000"), (parallel, "parallel")):
        scan = RawScan(
            np.full(geometry.shape, 0.5),
            geometry,
            np.ones(geometry.views),
            dark=np.zeros((7, 61)),
            air=np.ones((7, 61)),
        )
        with pytest.raises(GeometryError, match=says):
            ctpd.write(scan, tmp_path / "pd")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(made, tmp_path):
    with pytest.raises(InputError, match="exists"):
        ctpd.write(made[0], tmp_path)


def test_a_full_disk_leaves_no_folder(made, tmp_path, monkeypatch):
    saved = []

    def save_as(self, path, **_):
        saved.append(path)
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        Path(path).write_bytes(b"x")

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_as)
    with pytest.raises(StorageError, match="No space left"):
        ctpd.write(made[0], tmp_path / "pd")
    assert not list(tmp_path.iterdir())


def test_uids_and_bytes_are_the_same_every_time(made, tmp_path):
    for name in ("a", "b"):
        ctpd.write(made[0], tmp_path / name)
    a, b = ((tmp_path / name / "000002.dcm").read_bytes() for name in "ab")
    assert a == b
