"""Coding of counts: exact where it is asked for, else of the noise that theory says and without bias in dark rays."""

import dataclasses
import math
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from lampyris import raw
from lampyris.model import CalibrationError, Coding, FormatError, InputError, Noise, RawScan
from lampyris.raw import codec
from lampyris.raw.codec import codestream

NOISE = Noise(5.3, 8.1)


def coding(k: float = 4.0, noise: Noise = NOISE, pedestal: float = 101.7, dtype: str = "<u2") -> Coding:
    return Coding(k, pedestal, noise, dtype)


def poisson_counts(rng, shape=(23, 5, 61), noise: Noise = NOISE, pedestal: float = 101.7) -> np.ndarray:
    """Counts of 3 to 3000 quanta, as a detector would round them."""
    mean = np.geomspace(3, 3000, shape[-1])
    quanta = rng.poisson(np.broadcast_to(mean, shape))
    return np.rint(pedestal + noise.gain_counts * quanta + noise.electronic_counts * rng.standard_normal(shape))


KINDS = ("u1", "u2", ">u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", ">f4", "f8")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_without_a_coding_every_bit_comes_back(kind, data):
    """Also the bits of NaN, of minus zero and of the ends of a type."""
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 40)))
    block = data.draw(arrays.arrays(np.dtype(kind), shape))
    back = codec.decode(codec.encode(block))
    assert back.dtype == block.dtype.newbyteorder("<")
    assert back.tobytes() == block.astype(block.dtype.newbyteorder("<")).tobytes()


def test_a_chunk_says_what_it_holds(rng):
    counts = poisson_counts(rng).astype(np.uint16)
    chunk = codec.unwrap(codec.encode(counts, coding()))
    assert chunk.coding == coding()
    assert (chunk.stored.shape, chunk.stored.dtype) == (counts.shape, np.uint16)
    np.testing.assert_array_equal(
        codec.restore(chunk.stored, chunk.coding), codec.decode(codec.encode(counts, coding()))
    )
    assert codec.unwrap(codec.encode(counts)).coding is None


def test_levels_follow_the_generalised_anscombe_transform():
    """Three counts by hand: g = 4, e = 3, pedestal 100, k = 4: y = (√(4x + 15) − √15)/2."""
    made = coding(4.0, Noise(4.0, 3.0), 100.0)
    at = np.array([[[100, 100 + 250, 100 + 2500]]], np.uint16)
    low, middle, high = codec.quantise(at, made)[0, 0].astype(int)
    assert middle - low == round(4 * (math.sqrt(1015) - math.sqrt(15)) / 2)
    assert high - low == round(4 * (math.sqrt(10015) - math.sqrt(15)) / 2)


@pytest.mark.parametrize("k", [4.0, 2.0])
def test_a_step_is_the_share_of_the_noise_that_was_asked_for(k):
    """Width of a level over √(g·x + e²), far above the dark: 1/k, within what whole counts allow."""
    made = coding(k)
    counts = np.arange(65536, dtype=np.uint16)[None, None]
    levels = codec.quantise(counts, made)[0, 0].astype(int)
    for x in (3000, 20000, 60000):
        wide = np.sum(levels == levels[x])
        sigma = math.sqrt(NOISE.gain_counts * (x - made.pedestal_counts) + NOISE.electronic_counts**2)
        assert wide == pytest.approx(sigma / k, abs=1.01)


def test_where_the_noise_is_below_a_count_nothing_is_lost():
    """e = 0.3, g = 0.4: one quarter of the noise is less than a count up to x = (16 − s²)/g."""
    made = coding(4.0, Noise(0.4, 0.3), 20.0)
    last = int(20 + (16 - 0.375 * 0.16 - 0.09) / 0.4)
    counts = np.arange(last, dtype=np.uint16)[None, None]
    np.testing.assert_array_equal(codec.decode(codec.encode(counts, made)), counts)
    assert np.diff(codec.quantise(counts, made)[0, 0].astype(int)).max() == 1  # and no level is left unused


def distribution(quanta: float, noise: Noise, pedestal: float) -> tuple[np.ndarray, np.ndarray]:
    """Every whole count and its probability: round(pedestal + g·Poisson + normal)."""
    n = np.arange(int(quanta + 12 * math.sqrt(quanta + 1) + 12))
    share = stats.poisson.pmf(n, quanta)
    centre = pedestal + noise.gain_counts * n
    reach = 9 * noise.electronic_counts + 2
    counts = np.arange(math.floor(pedestal - reach), math.ceil(centre[-1] + reach))
    edges = (np.append(counts, counts[-1] + 1) - 0.5)[:, None]
    below = special.ndtr((edges - centre) / noise.electronic_counts) @ share
    return counts, np.diff(below)


@pytest.mark.parametrize(("k", "bound"), [(4.0, 4e-4), (2.0, 2e-3)])
@pytest.mark.parametrize("noise", [Noise(0.35, 1.2), Noise(5.3, 8.1), Noise(1190.0, 3500.0)])
def test_dark_rays_keep_their_mean(noise, k, bound):
    """The exact expectation over the counts' distribution, from no quantum at all to 300: within `bound` of σ.

    Detectors of our presets, of a clinical kind and of XCIST (electrons, scaled to 22 bits); electronic noise of more
    than a quantum each. The middle of each level's counts would be off by up to 0.2 % of σ at σ/4, 0.8 % at σ/2.
    """
    scale = 0.05 if noise.gain_counts > 1000 else 1.0
    noise = Noise(noise.gain_counts * scale, noise.electronic_counts * scale)
    made = coding(k, noise, 40 * noise.electronic_counts, "<u4")
    for quanta in (1e-9, 0.2, 1, 3, 10, 30, 100, 300):
        counts, share = distribution(quanta, noise, made.pedestal_counts)
        back = codec.restore(codec.quantise(counts.astype(np.uint32)[None, None], made), made)[0, 0].astype(np.float64)
        sigma = math.sqrt(noise.gain_counts**2 * quanta + noise.electronic_counts**2)
        assert abs((back - counts) @ share) < bound * sigma


@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("k", [4.0, 2.0])
def test_added_noise_is_what_theory_says(rng, k, dtype):
    """Variance of the error over σ²/(12k²): 1 within four standard errors, √(0.8/n) for a uniform error."""
    quanta, n = 700.0, 200_000
    exact = 101.7 + NOISE.gain_counts * rng.poisson(quanta, n) + NOISE.electronic_counts * rng.standard_normal(n)
    counts = (np.rint(exact) if dtype == "u2" else exact).astype(dtype)[None, None]
    made = coding(k, dtype=np.dtype(dtype).str)
    error = codec.decode(codec.encode(counts, made)).astype(np.float64) - counts
    step = math.sqrt(NOISE.gain_counts**2 * (quanta + 3 / 8) + NOISE.electronic_counts**2) / k
    rounding = 1 / step**2 if dtype == "u2" else 0.0  # a step of w whole counts has (w² − 1)/12
    assert error.var() / (step**2 / 12) == pytest.approx(1 - rounding, abs=4 * math.sqrt(0.8 / n) + 0.002)
    assert abs(error.mean()) < 4 * step / math.sqrt(12 * n)
    lag = np.corrcoef(error.ravel()[1:], error.ravel()[:-1])[0, 1]
    assert abs(lag) < 4 / math.sqrt(n)  # white: neighbours do not share their error


@pytest.mark.data
@pytest.mark.parametrize("k", [4.0, 2.0])
@pytest.mark.parametrize("name", ["lopsided_axial", "lopsided_axial_20mA"])
def test_added_noise_of_another_simulators_scan(shared_data, name, k):
    """XCIST's electrons, real numbers of millions: rms of the error 1/(k√12) of its own noise, whatever was scanned."""
    scan = raw.read(shared_data / "raw" / "catsim" / name, tube_voltage_kv=120.0)
    part = dataclasses.replace(
        scan,
        counts=scan.counts[100:160],
        geometry=scan.geometry.subset(slice(100, 160)),
        exposure_mas=scan.exposure_mas[100:160],
        id="",
    )
    made = codec.coding_of(part, k)
    counts = np.asarray(part.counts, np.float64)
    error = codec.restore(codec.quantise(np.asarray(part.counts), made), made) - counts
    sigma = np.sqrt(part.noise.gain_counts * counts + part.noise.electronic_counts**2)
    # below 1e6 electrons 3/8·g² still counts for 5e-4 of the variance; a uniform error's variance is known to √(0.8/n)
    assert np.mean((error / sigma) ** 2) * 12 * k**2 == pytest.approx(1, abs=1e-3 + 4 * math.sqrt(0.8 / counts.size))
    assert abs(np.mean(error / sigma)) < 4 / (k * math.sqrt(12 * counts.size))


def test_a_coding_tells_the_noise_after_it():
    """√(1 + 1/(12·16)) − 1 = 0.26 %, √(1 + 1/(12·4)) − 1 = 1.04 %; the variance grows by step²/12 at any count."""
    assert coding(4.0).added_noise == pytest.approx(0.0026, abs=5e-5)
    assert coding(2.0).added_noise == pytest.approx(0.0104, abs=5e-5)
    after, x = coding(2.0).noise_after, 1234.0
    before = NOISE.gain_counts * x + NOISE.electronic_counts**2
    grown = after.gain_counts * x + after.electronic_counts**2
    assert grown == pytest.approx(before + (before + 3 / 8 * NOISE.gain_counts**2) / 48)


def test_noise_aware_counts_are_smaller_than_lossless_ones(rng):
    """On Poisson counts of a smooth object at least twice, and by the three halves more at σ/2."""
    counts = poisson_counts(rng, (64, 16, 300)).astype(np.uint16)
    exact, quarter, half = (len(codec.encode(counts, one)) for one in (None, coding(4.0), coding(2.0)))
    assert exact < 0.75 * counts.nbytes
    assert quarter < 0.6 * exact
    assert half < 0.85 * quarter


def test_counts_beyond_the_levels_are_refused():
    made = coding(4.0, dtype="<u4")
    with pytest.raises(InputError, match=r"counts from 5 to 5e\+06, the coding holds 0…4194303"):
        codec.encode(np.array([[[5, 5_000_000]]], np.uint32), made)
    with pytest.raises(InputError, match=r"levels from .* lossless"):
        codec.encode(np.array([[[-1e9, 5.0]]], np.float32), coding(4.0, dtype="<f4"))
    with pytest.raises(InputError, match="counts are int32, the coding was made for <u4"):
        codec.encode(np.ones((1, 1, 2), np.int32), made)


@pytest.mark.parametrize("kind", ["c8", "b1", "U3"])
def test_other_types_than_numbers_are_refused(kind):
    with pytest.raises(InputError, match="whole or real numbers"):
        codec.encode(np.zeros((1, 2, 3), kind))


@pytest.mark.parametrize(
    "values",
    [
        (0.1, 5.0, 1.0, 0.0),
        (4.0, 1e12, 1.0, 0.0),
        (math.nan, 5.0, 1.0, 0.0),
        (4.0, 5.0, 1e10, 0.0),
        (4.0, 5.0, 1.0, 1e10),
    ],
)
def test_impossible_codings_are_refused(values):
    k, gain, electronic, pedestal = values
    with pytest.raises(InputError, match="expected"):
        Coding(k, pedestal, Noise(gain, electronic), "<u2")


# ── what a scan is given ──


@pytest.fixture
def scan(lopsided_helix, rng):
    counts = poisson_counts(rng, lopsided_helix.shape).astype(np.uint16)
    dark = rng.uniform(80, 101.7, (7, 61))
    bad = np.zeros((7, 61), bool)
    dark[3, 7], bad[3, 7] = 9000.0, True
    return RawScan(counts, lopsided_helix, np.ones(97), dark=dark, bad_cells=bad, noise=NOISE)


def renewed(scan: RawScan, **changes) -> RawScan:
    return dataclasses.replace(scan, **changes, id="")


def test_the_pedestal_is_the_highest_dark_of_the_working_cells(scan):
    """No cell is then given a step above its own noise; the broken cell's 9000 would make all steps useless."""
    made = codec.coding_of(scan, 4.0)
    assert made.pedestal_counts == np.float32(scan.dark[~scan.bad_cells].max())
    assert (made.noise, made.dtype, made.steps_per_sigma) == (NOISE, "<u2", 4.0)


def test_a_scan_without_what_a_step_needs_is_refused(scan):
    with pytest.raises(CalibrationError, match="nothing of its noise"):
        codec.coding_of(renewed(scan, noise=None), 4.0)
    with pytest.raises(CalibrationError, match="no dark counts"):
        codec.coding_of(renewed(scan, dark=None), 4.0)
    with pytest.raises(InputError, match="line integrals"):
        codec.coding_of(renewed(scan, applied=("log",)), 4.0)
    with pytest.raises(InputError, match="already coded in 4 steps"):
        codec.coding_of(renewed(scan, coding=coding()), 2.0)
    assert codec.coding_of(renewed(scan, dark=None, applied=("dark_air",)), 4.0).pedestal_counts == 0


def test_the_policy_decides_and_says_why(scan):
    policy = codec.Policy(protocols=(("*heart*", "lossless"), ("LUNG ??", "sigma/2")), slow_mbit_per_s=50.0)
    assert policy.decide(scan).coding == "sigma/4"
    assert policy.decide(scan, link_mbit_per_s=50.0).coding == "sigma/4"
    slow = policy.decide(scan, link_mbit_per_s=49.9)
    assert (slow.coding, slow.reason) == ("sigma/2", "link of 49.9 Mbit/s, slow is under 50")
    for purpose in ("phantom", "calibration", "quality"):
        assert policy.decide(scan, purpose=purpose, link_mbit_per_s=1.0) == codec.Decision(
            "lossless", f"purpose {purpose}"
        )
    heart = renewed(scan, acquisition=type(scan.acquisition)(ProtocolName="CT Heart gated"))
    assert policy.decide(heart, link_mbit_per_s=1.0) == codec.Decision("lossless", "protocol like *heart*")
    lung = renewed(scan, acquisition=type(scan.acquisition)(ProtocolName="lung 5A"))
    assert policy.decide(lung).coding == "sigma/2"


def test_what_cannot_be_coarsened_is_kept_exactly_and_the_reason_says_so(scan):
    made = codec.Policy().decide(renewed(scan, noise=None))
    assert made == codec.Decision("lossless", "not sigma/4: the scan says nothing of its noise (gain, electronic)")


def test_a_policy_of_nonsense_is_refused(scan):
    with pytest.raises(InputError, match="'sigma/3' is not known"):
        codec.Policy(clinical="sigma/3")
    with pytest.raises(InputError, match="not known"):
        codec.Policy(protocols=(("*", "best"),))
    with pytest.raises(InputError, match="'test' is not known; known are clinical"):
        codec.Policy().decide(scan, purpose="test")
    for reason in ("", "x" * 129):
        with pytest.raises(InputError, match="a reason of"):
            codec.Decision("lossless", reason)
    with pytest.raises(InputError, match="a reason of"):
        codec.Policy(protocols=(("*" * 128, "lossless"),))


# ── hostile bytes ──


def sealed(header: bytes, body: bytes) -> bytes:
    """A chunk whose checksum is right, whatever is in it."""
    return header[:60] + struct.pack("<I", zlib.crc32(body, zlib.crc32(header[:60]))) + body


@pytest.fixture
def chunk(rng) -> bytes:
    return codec.encode(poisson_counts(rng).astype(np.uint16), coding())


def test_the_header_is_as_documented(chunk):
    assert chunk[:8] == b"LCT1u2u2"
    assert struct.unpack_from("<3I4d", chunk, 8) == (23, 5, 61, 4.0, NOISE.gain_counts, NOISE.electronic_counts, 101.7)
    assert struct.unpack_from("<I", chunk, 52)[0] == len(chunk) - 64
    assert chunk[64:68] == b"\xff\x4f\xff\x51"  # SOC, SIZ: any HTJ2K decoder takes it from here


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_goes_unseen(place, bit):
    counts = poisson_counts(np.random.default_rng(3), (7, 3, 31)).astype(np.uint16)
    damaged = bytearray(codec.encode(counts, coding()))
    damaged[place % len(damaged)] ^= 1 << bit
    with pytest.raises(FormatError):
        codec.decode(bytes(damaged))


def test_no_truncation_goes_unseen(chunk):
    for length in (0, 3, 63, 64, 90, len(chunk) // 2, len(chunk) - 1):
        with pytest.raises(FormatError):
            codec.decode(chunk[:length])
    with pytest.raises(FormatError, match="checksum"):
        codec.decode(chunk + b"\0")


@pytest.mark.parametrize(
    ("at", "content", "says"),
    [
        (4, b"z9", "not types"),
        (6, b"c8", "not types"),
        (4, b"i2", "not types"),
        (8, struct.pack("<3I", 2**31, 2**20, 2**20), "expected up to"),
        (8, struct.pack("<3I", 0, 5, 61), "expected up to"),
        (8, struct.pack("<3I", 24, 5, 61), "HTJ2K declares 115 × 61"),
        (20, struct.pack("<d", math.nan), "impossible steps"),
        (20, struct.pack("<d", 1e300), "impossible steps"),
        (28, struct.pack("<d", -1.0), "impossible steps"),
        (20, bytes(32), "another content|without saying"),
        (56, b"abcd", "another content"),
    ],
)
def test_forged_headers_are_refused(chunk, at, content, says):
    """Checksums are right, so that only what is declared can give the forgery away."""
    header = chunk[:at] + content + chunk[at + len(content) : 64]
    if says == "another content|without saying":  # levels said to be counts: of another meaning, but whole
        assert codec.unwrap(sealed(header, chunk[64:])).coding is None
        return
    with pytest.raises(FormatError, match=says):
        codec.decode(sealed(header, chunk[64:]))


def test_a_level_that_the_coding_does_not_know_is_refused():
    levels = np.full((1, 2, 3), 65535, np.uint16)
    with pytest.raises(FormatError, match="level 65535 of"):
        codec.decode(codec.wrap(levels, coding()))


def test_a_bomb_is_refused_before_memory_is_reserved():
    """A codestream of a few hundred bytes that claims 2³¹ × 2³¹ samples."""
    small = bytearray(codestream.encode(np.zeros((5, 7), np.uint16)))
    for at in (8, 12, 24, 28):  # Xsiz, Ysiz, XTsiz, YTsiz
        small[at : at + 4] = struct.pack(">I", 2**31)
    with pytest.raises(FormatError, match="declares 2147483648 × 2147483648"):
        codestream.decode(bytes(small), 5, 7, np.dtype(np.uint16))


FUZZ = """
import sys
import numpy as np
from lampyris.model import FormatError
from lampyris.raw.codec import codestream

sys.unraisablehook = lambda _: None  # imagecodecs drops the body's errors; the content's checksum is what finds them
rng = np.random.default_rng(int(sys.argv[1]))
image = rng.poisson(300, (96, 61)).astype(np.uint16)
sound = codestream.encode(image)
refused = passed = 0
for _ in range(3000):
    damaged = bytearray(sound)
    start = 0 if rng.random() < 0.6 else sound.index(b"\\xff\\x93")
    stop = 140 if start == 0 else len(sound)
    for place in rng.integers(start, stop, rng.integers(1, 6)):
        damaged[place] = rng.integers(0, 256)
    try:
        back = codestream.decode(bytes(damaged), *image.shape, image.dtype)
        assert back.shape == image.shape
        passed += 1
    except FormatError:
        refused += 1
print(refused, passed)
"""


def test_random_bytes_in_a_codestream_are_refused_or_decoded_in_bounded_time():
    """In a process of its own, so that a crash of the decoder would be seen: 3000 codestreams, header and body."""
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, "20261121"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, passed = map(int, done.stdout.split())
    assert refused > 1000
    assert passed > 100


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what imagecodecs drops on the way
def test_a_body_forged_with_its_checksum_is_found_by_its_content(chunk):
    """OpenJPH decodes most damaged bodies to other numbers without a word."""
    body = bytearray(chunk[64:])
    rng = np.random.default_rng(8)
    for _ in range(40):
        forged = body.copy()
        forged[rng.integers(200, len(body) - 2)] ^= 0x55
        with pytest.raises(FormatError):
            codec.decode(sealed(chunk[:64], bytes(forged)))
