"""DXchange, NXtomo and Xradia: made by hand and real; the axis of rotation of parallel beams."""

from pathlib import Path

import h5py
import numpy as np
import olefile
import pytest

from lampyris import raw
from lampyris.model import FormatError, InputError
from lampyris.raw import xradia
from lampyris.raw.parallel import central_column

COLUMNS, ROWS = 61, 3
BLOBS = ((10.0, 5.0, 3.0, 1.0), (-14.0, 8.0, 2.5, 0.6), (3.0, -12.0, 5.0, 0.4))
"""(x, z, σ, peak integral) of Gaussian blobs in mm: their parallel integrals are closed forms."""


def integrals(angle_deg, axis: float) -> np.ndarray:
    """(views, rows, columns): Σ peak·exp(−(s − x cos φ + z sin φ)²/2σ²), each row a little weaker."""
    phi = np.deg2rad(np.asarray(angle_deg))[:, None]
    s = np.arange(COLUMNS)[None, :] - axis
    p = sum(a * np.exp(-((s - (x * np.cos(phi) - z * np.sin(phi))) ** 2) / 2 / w**2) for x, z, w, a in BLOBS)
    return p[:, None, :] * np.linspace(1.0, 0.7, ROWS)[None, :, None]


def frames(angle_deg, axis: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(projections, flats, darks) in counts; flats differ from cell to cell and scatter about their mean."""
    rng = np.random.default_rng(11)
    gain = rng.uniform(2e4, 4e4, (ROWS, COLUMNS))
    net = gain * np.exp(-integrals(angle_deg, axis))
    flats = gain + 100 + np.array([-50.0, 20.0, 30.0])[:, None, None]
    return net + 100, flats, np.full((4, ROWS, COLUMNS), 100.0)


def make_dxchange(path: Path, angle_deg, axis=28.3, **change) -> Path:
    data, flats, darks = frames(angle_deg, axis)
    content = {
        "data": data.astype("u2"),
        "data_white": flats,
        "data_dark": darks,
        "theta": np.asarray(angle_deg),
    } | change
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[f"exchange/{name}"] = values
    return path


ANGLES = np.arange(0, 180, 3.0)


@pytest.mark.parametrize("axis", [28.3, 30.0, 35.75])
@pytest.mark.parametrize("step", [1.0, 3.0, 7.0])
def test_the_axis_is_found(axis, step):
    """To a tenth of a column: without noise, for any step and whether or not the half turn is complete."""
    angle = np.arange(0, 181, step)
    p = integrals(angle, axis)
    assert central_column(lambda view: p[view], np.deg2rad(angle)) == pytest.approx(axis, abs=0.1)


def test_the_axis_is_found_in_noise_and_in_any_order(rng):
    order = rng.permutation(len(ANGLES))
    p = integrals(ANGLES, 28.3) + rng.normal(0, 0.03, (len(ANGLES), ROWS, COLUMNS))
    found = central_column(lambda view: p[order][view], np.deg2rad(ANGLES[order] + 77.0))
    assert found == pytest.approx(28.3, abs=0.25)


def test_the_axis_of_a_full_turn_is_found():
    angle = np.arange(0, 360, 3.0)
    p = integrals(angle, 33.3)
    assert central_column(lambda view: p[view], np.deg2rad(angle)) == pytest.approx(33.3, abs=0.1)


def test_a_quarter_turn_or_nothing_but_noise_shows_no_axis(rng):
    p = integrals(ANGLES[:30], 28.3)
    with pytest.raises(InputError, match=r"30 views over 87\.0°"):
        central_column(lambda view: p[view], np.deg2rad(ANGLES[:30]))
    noise = rng.normal(size=(60, 64, 200))
    with pytest.raises(InputError, match="correlate by"):
        central_column(lambda view: noise[view], np.deg2rad(ANGLES))


# ---- DXchange


def test_dxchange_comes_over(tmp_path):
    scan = raw.read(make_dxchange(tmp_path / "x.h5", ANGLES), central_column=28.3, cell_mm=0.02)
    data, _, _ = frames(ANGLES, 28.3)
    np.testing.assert_array_equal(scan.counts[:], data.astype("u2"))
    np.testing.assert_array_equal(scan.counts[7:3:-2, 1], data.astype("u2")[7:3:-2, 1])
    np.testing.assert_array_equal(scan.counts[[5, 2]], data.astype("u2")[[5, 2]])
    assert scan.counts.dtype == np.uint16
    assert (scan.dark == 100).all()
    gain = np.random.default_rng(11).uniform(2e4, 4e4, (ROWS, COLUMNS))
    np.testing.assert_allclose(scan.air[0], gain + 100, rtol=1e-6)  # the flats' scatter has mean 0
    geometry = scan.geometry
    assert geometry.parallel
    assert geometry.cell_mm == pytest.approx((0.02, 0.02))
    # at 90° columns run along −z and the source stands at +x; the axis meets column 28.3
    cells = geometry.cells_mm(30)
    np.testing.assert_allclose(cells[1, :, 2], -(np.arange(COLUMNS) - 28.3) * 0.02, atol=1e-12)
    assert (geometry.source[30] - geometry.detector[30])[0] > 0
    assert "given at column 28.30" in scan.acquisition.ProtocolName


def test_an_estimated_axis_says_so(tmp_path):
    scan = raw.read(make_dxchange(tmp_path / "x.h5", ANGLES))
    assert "axis estimated at column 28.3" in scan.acquisition.ProtocolName
    assert scan.acquisition.ProtocolName.endswith("cell 1 mm assumed")
    given = raw.read(tmp_path / "x.h5", cell_mm=0.02)
    assert "assumed" not in given.acquisition.ProtocolName
    zero = np.linalg.norm(scan.geometry.cells_mm(0)[1][:, [0, 2]], axis=1)
    assert zero[28] == pytest.approx(0.3, abs=0.1)


def test_radians_are_read_as_radians(tmp_path):
    path = make_dxchange(tmp_path / "x.h5", np.deg2rad(ANGLES), data=frames(ANGLES, 28.3)[0])
    with h5py.File(path, "a") as file:
        file["exchange/theta"].attrs["units"] = "radians"
    one, other = raw.read(path), raw.read(make_dxchange(tmp_path / "y.h5", ANGLES, data=frames(ANGLES, 28.3)[0]))
    np.testing.assert_allclose(one.geometry.source, other.geometry.source, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"theta": None}, "no exchange/theta"),
        ({"theta": ANGLES[:-1]}, "59 angles for 60 views"),
        ({"theta": np.where(ANGLES == 9, np.nan, ANGLES)}, "1 NaN"),
        ({"data_white": np.ones((2, 3, 60))}, r"frames of \(3, 60\), projections of \(3, 61\)"),
        ({"data": np.ones((60, 61))}, r"expected numbers \(views, rows, columns\)"),
    ],
)
def test_broken_dxchange_is_refused(tmp_path, change, says):
    with pytest.raises(FormatError, match=says):
        raw.read(make_dxchange(tmp_path / "x.h5", ANGLES, **change))


def test_missing_flats_are_left_to_the_chain(tmp_path):
    scan = raw.read(make_dxchange(tmp_path / "x.h5", ANGLES, data_white=None, data_dark=None), central_column=28.3)
    assert (scan.air, scan.dark) == (None, None)


def test_truncated_hdf5_is_refused(tmp_path):
    path = make_dxchange(tmp_path / "x.h5", ANGLES)
    whole = path.read_bytes()
    for share in (0.2, 0.6, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FormatError):
            raw.read(path)


@pytest.mark.data
def test_the_tooth_is_read(shared_data):
    """Real: 181 views, flats some 20 times the darks, axis near channel 295.5."""
    scan = raw.read(shared_data / "raw" / "tooth.h5")
    assert scan.counts.shape == (181, 2, 640)
    found = float(scan.acquisition.ProtocolName.split("column ")[1].split(",")[0])
    assert found == pytest.approx(295.5, abs=0.6)  # by its angles 179.0° are spanned: a step more or less is 0.5 column
    assert (scan.air > scan.dark).all()
    assert np.median((np.asarray(scan.counts) - scan.dark) / (scan.air - scan.dark)) < 1.05


# ---- NXtomo


def make_nxtomo(path: Path, *, linked: bool = False, axis=28.3, pixel=True) -> Path:
    """Five flats and darks among the projections, angles inside or in another file."""
    data, flats, darks = frames(ANGLES, axis)
    stack = np.concatenate([darks[:2], flats[:1], data, flats[1:], darks[2:]]).astype("u2")
    key = np.array([2, 2, 1, *[0] * len(data), 1, 1, 2, 2])
    angle = np.concatenate([[0.0] * 3, ANGLES, [177.0] * 4])
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["data"], detector["image_key"] = stack, key
        if pixel:
            for name, size in (("x", 3.0), ("y", 5.0)):
                detector[f"{name}_pixel_size"] = size
                detector[f"{name}_pixel_size"].attrs["units"] = "um"
        file.create_group("entry/sample")
        if linked:
            file["entry/sample/rotation_angle"] = h5py.ExternalLink("angles.h5", "/motor")
        else:
            file["entry/sample/rotation_angle"] = angle
    if linked:
        with h5py.File(path.with_name("angles.h5"), "w") as file:
            file["motor"] = angle
    return path


@pytest.mark.parametrize("linked", [False, True])
def test_nxtomo_comes_over(tmp_path, linked):
    scan = raw.read(make_nxtomo(tmp_path / "x.nxs", linked=linked))
    data, flats, _ = frames(ANGLES, 28.3)
    np.testing.assert_array_equal(scan.counts[:], data.astype("u2"))
    np.testing.assert_array_equal(scan.counts[50], data.astype("u2")[50])
    np.testing.assert_allclose(scan.air[0], flats.astype("u2").mean(0), rtol=1e-6)
    assert (scan.dark == 100).all()
    assert scan.geometry.cell_mm == pytest.approx((0.005, 0.003))
    assert scan.geometry.views == 60


def test_a_file_of_angles_left_behind_is_named(tmp_path):
    path = make_nxtomo(tmp_path / "x.nxs", linked=True)
    (tmp_path / "angles.h5").unlink()
    with pytest.raises(FormatError, match=r"rotation_angle is a link to angles.h5:/motor, which cannot be opened"):
        raw.read(path)


def test_wrong_image_keys_are_refused(tmp_path):
    for key, says in ((np.full(67, 1), "marks no projection"), (np.full(67, 9), "expected 0, 1, 2 or 3"),
                      (np.zeros(66, int), "66 image keys")):  # fmt: skip
        path = make_nxtomo(tmp_path / "x.nxs")
        with h5py.File(path, "a") as file:
            del file["entry/instrument/detector/image_key"]
            file["entry/instrument/detector/image_key"] = key
        with pytest.raises(FormatError, match=says):
            raw.read(path)


def test_angles_that_are_nowhere_are_not_invented(tmp_path):
    path = make_nxtomo(tmp_path / "x.nxs")
    with h5py.File(path, "a") as file:
        del file["entry/sample/rotation_angle"]
    with pytest.raises(FormatError, match="no rotation angles"):
        raw.read(path)


@pytest.mark.data
def test_the_diamond_scan_is_read(shared_data):
    """Real: 3201 frames, image_key 0/1/2 = 3001/100/100, angles 90…270° in a linked file, another link broken."""
    scan = raw.read(shared_data / "raw" / "diamond_k11-18014" / "k11-18014.nxs")
    assert scan.counts.shape == (3001, 22, 26)
    assert scan.counts.dtype == np.uint16
    angle = np.rad2deg(np.unwrap(np.arctan2(*(scan.geometry.source - scan.geometry.detector)[:, [0, 2]].T)))
    assert angle[0] % 360 == pytest.approx(89.995, abs=0.01)
    assert angle[-1] - angle[0] == pytest.approx(180.0, abs=0.01)
    stack = h5py.File(shared_data / "raw/diamond_k11-18014/k11-18014/k11-18014-imaging.h5")["entry/detector/detector"]
    np.testing.assert_array_equal(scan.counts[1234], stack[1234 + 100])  # 50 flats and 50 darks come first
    assert scan.air.mean() > 100 * scan.dark.mean()
    stack.file.close()


# ---- Xradia


@pytest.mark.data
def test_the_xradia_scan_is_read(shared_data):
    """Real: seven views of 256² uint16 from −45° to 45°, zone plate, 0.156 µm."""
    scan = raw.read(shared_data / "raw" / "txrm_test_chip_tomo.txrm")
    assert (scan.counts.shape, scan.counts.dtype) == ((7, 256, 256), np.uint16)
    with olefile.OleFileIO(shared_data / "raw" / "txrm_test_chip_tomo.txrm") as ole:
        third = np.frombuffer(ole.openstream("ImageData1/Image3").read(), "<u2").reshape(256, 256)
    np.testing.assert_array_equal(scan.counts[2], third)
    assert scan.geometry.parallel
    assert scan.geometry.cell_mm == pytest.approx((1.5579e-4, 1.5579e-4), rel=1e-4)
    ray = scan.geometry.source - scan.geometry.detector
    np.testing.assert_allclose(
        np.rad2deg(np.arctan2(ray[:, 0], ray[:, 2])), [-45.018, -30.014, -15.014, -0.014, 14.986, 29.986, 44.986],
        atol=1e-3,
    )  # fmt: skip
    assert scan.air is None


@pytest.mark.data
def test_a_radiograph_is_no_scan(shared_data):
    with pytest.raises(FormatError, match="holds 1 image: a radiograph"):
        raw.read(shared_data / "raw" / "test_chip00.xrm")


@pytest.mark.data
def test_a_damaged_xradia_file_is_refused(shared_data, tmp_path):
    whole = (shared_data / "raw" / "txrm_test_chip_tomo.txrm").read_bytes()
    for share in (0.01, 0.3, 0.9):
        (tmp_path / "x.txrm").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FormatError):
            raw.read(tmp_path / "x.txrm")


class Compound:
    """Streams of a compound file by name, in place of olefile's."""

    def __init__(self, streams):
        self.streams = streams

    def exists(self, name):
        return name in self.streams

    def get_size(self, name):
        return len(self.streams[name])

    def openstream(self, name):
        import io

        return io.BytesIO(self.streams[name])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def integer(value):
    return np.array([value], "<i4").tobytes()


def floats(*values):
    return np.array(values, "<f4").tobytes()


@pytest.fixture
def cone(tmp_path, monkeypatch):
    """A laboratory cone beam: 20 mm to the source, 80 mm to the detector, 2 µm at the sample, shifts, reference."""
    images = np.arange(3 * 4 * 5, dtype="<f4").reshape(3, 4, 5)
    streams = {
        "ImageInfo/ImagesTaken": integer(3), "ImageInfo/ImageWidth": integer(5), "ImageInfo/ImageHeight": integer(4),
        "ImageInfo/DataType": integer(10), "ImageInfo/XrayGeometry": integer(1), "ImageInfo/PixelSize": floats(2.0),
        "ImageInfo/StoRADistance": floats(-20, -20, -20), "ImageInfo/DtoRADistance": floats(80, 80, 80),
        "ImageInfo/Angles": floats(0, 90, 180), "ImageInfo/Voltage": floats(80.0),
        "ImageInfo/ExpTimes": floats(2, 2, 4), "ReferenceData/ExpTime": floats(3.0),
        "Alignment/X-Shifts": floats(0, 1.5, 0), "Alignment/Y-Shifts": floats(0, 0, -2),
        "ReferenceData/DataType": integer(5), "ReferenceData/Image": np.full((4, 5), 900, "<u2").tobytes(),
        **{f"ImageData1/Image{i + 1}": images[i].tobytes() for i in range(3)},
    }  # fmt: skip
    monkeypatch.setattr(xradia.olefile, "OleFileIO", lambda _path: Compound(streams))
    return streams, tmp_path / "x.txrm"


def test_a_cone_beam_is_set_up_as_the_distances_say(cone):
    scan = xradia.read(cone[1])
    assert scan.geometry.curvature_mm is None
    # magnification 5: 0.01 mm at the detector, 100 mm away
    assert scan.geometry.cell_mm == pytest.approx((0.01, 0.01))
    np.testing.assert_allclose(scan.geometry.source, [(0, 0, 20), (20, 0, 0), (0, 0, -20)], atol=1e-9)
    np.testing.assert_allclose(scan.geometry.detector, [(0, 0, -80), (-80, 0, -0.015), (0, -0.02, 80)], atol=1e-9)
    np.testing.assert_array_equal(scan.counts[1:], np.arange(20, 60).reshape(2, 4, 5))
    assert (scan.air == 900).all()
    np.testing.assert_array_equal(scan.exposure_mas, [2, 2, 4])
    assert (scan.air_exposure_mas, scan.acquisition.KVP) == (3.0, pytest.approx(80.0))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ImageInfo/DataType", integer(7), "DataType is 7"),
        ("ImageInfo/AcquisitionMode", integer(1), "no acquisition"),
        ("ImageData1/Image2", b"\0" * 79, "1 of 3 images are missing or not of 80 bytes, first image 2"),
        ("ImageInfo/Angles", floats(0, 1), "2 values, expected 3"),
        ("ImageInfo/Angles", floats(0, np.nan, 1), "NaN"),
        ("ImageInfo/PixelSize", floats(0.0), "PixelSize is 0"),
        ("ReferenceData/Image", b"\0" * 12, "reference image has 12 bytes"),
    ],
)
def test_a_wrong_stream_is_refused(cone, name, content, says):
    streams, path = cone
    streams[name] = content
    with pytest.raises(FormatError, match=says):
        xradia.read(path)
