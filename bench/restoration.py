"""`python -m bench.restoration`: a pelvis-like body at a tenth of the dose, restored or filtered → a table, printed.

An elliptic body 40 × 25 cm with two dense rods as hips, 40 000 quanta a ray in air, electronics of three; one turn of
720 views, rows of 0.6 mm, body kernel. Inserts of +300, −900 and +1000 HU tell the resolution along x (edges that rays
from above and below see, which are bright) and along z (edges that the starved lateral rays see); a rod of +1000 HU
that ends in the middle of the slices tells the resolution along y. `log + blur` is the image of the log alone under
that Gaussian blur in the slices which leaves the noise of the restored image in the row above it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq, curve_fit
from scipy.special import erf

from lampyris.correct import correct
from lampyris.model import Gantry, Geometry, GridRequest, Noise, Projections, RawScan, Step
from lampyris.phantom import Cylinder, line_integrals
from lampyris.recon.run import reconstruct

WATER_PER_MM = 0.0195
IN_AIR, ELECTRONIC = 4e4, 3.0
SEEDS = (0, 1)
VIEWS, ROWS, COLUMNS = 720, 8, 512
PIXEL_MM, MATRIX = 0.625, 320
GRID = GridRequest(
    MATRIX, PIXEL_MM * MATRIX, (0.0, 0.0), slice_thickness_mm=0.61, slice_increment_mm=0.61,
    first_mm=-1.525, last_mm=1.525,
)  # fmt: skip
INSERTS = (((0.0, 45.0), 300), ((-8.0, -45.0), -900), ((-45.0, 10.0), 1000))
HALF_ROD = (48.0, 0.0)
RADIUS_MM = 9.0
BANDS = ((1, 5), (5, 30), (30, 300))
BASIC = (Step("dark_air"), Step("log"))
EVEN = (1.0, 1.0, 1.0)
RESTORED = (
    ("restore, strength 3", Step.of("restore", strength=3.0, shares=EVEN)),
    ("restore, strength 10", Step.of("restore", strength=10.0, shares=EVEN)),
    ("restore, strength 10, rows ¼", Step.of("restore", strength=10.0, shares=(1.0, 0.25, 1.0))),
)


def body() -> tuple[Geometry, np.ndarray]:
    """The scan's geometry and its true line integrals in closed form."""
    gantry = Gantry(595.0, 1085.6, ROWS, COLUMNS, (1.1, 1.85), True, None, (COLUMNS - 1) / 2 + 0.25)
    geometry = Geometry.circular(gantry, 17.0 + 360 / VIEWS * np.arange(VIEWS))
    parts = [(_rod(0, 0, (200, 125)), 1.0), (_rod(-105, 5, (22, 22)), 0.9), (_rod(105, -5, (22, 22)), 0.9)]
    parts += [(_rod(*place, (RADIUS_MM, RADIUS_MM)), contrast / 1000) for place, contrast in INSERTS]
    parts += [(_rod(*HALF_ROD, (RADIUS_MM, RADIUS_MM), first_mm=0.0), 1.0)]
    total = np.zeros(geometry.shape, np.float32)
    for shape, relative in parts:
        total += line_integrals(shape, geometry, WATER_PER_MM * relative)
    return geometry, total


def _rod(x_mm: float, z_mm: float, radii_mm: tuple[float, float], first_mm: float = -40.0) -> Cylinder:
    middle, length = (first_mm + 40.0) / 2, 40.0 - first_mm
    return Cylinder((x_mm, middle, z_mm), radii_mm, length, first=(1.0, 0.0, 0.0))


def scan(geometry: Geometry, truth: np.ndarray, seed: int) -> RawScan:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(IN_AIR * np.exp(-truth.astype(np.float64))) + ELECTRONIC * rng.standard_normal(truth.shape)
    flat = np.ones((ROWS, COLUMNS), np.float32)
    return RawScan(
        counts.astype(np.float32), geometry, np.ones(VIEWS), 0 * flat, IN_AIR * flat, noise=Noise(1.0, ELECTRONIC),
        id=f"pelvis {seed}",
    )  # fmt: skip


def image(projections: Projections) -> np.ndarray:
    """HU (slices, rows, columns)."""
    known = replace(projections, water_per_mm=WATER_PER_MM)
    return reconstruct(known, Step("auto"), "body", GRID).values


def _away(place: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction of every pixel from a place."""
    axis = (np.arange(MATRIX) - (MATRIX - 1) / 2) * PIXEL_MM
    x, z = np.meshgrid(axis - place[0], -axis - place[1])
    return np.hypot(x, z), np.abs(np.rad2deg(np.arctan2(z, x)))


def f50(mean: np.ndarray, place: tuple[float, float], *, along_x: bool) -> float:
    """f50 in 1/mm of the Gaussian blur that fits an insert's edge within 25° of x or of z."""
    distance, angle = _away(place)
    sector = (angle < 25) | (angle > 155) if along_x else np.abs(angle - 90) < 25
    chosen = sector & (distance > RADIUS_MM - 6) & (distance < RADIUS_MM + 7)
    height = mean[distance < 4].mean()

    def edge(r: np.ndarray, base: float, step: float, blur: float, radius: float) -> np.ndarray:
        return base + step / 2 * (1 - erf((r - radius) / (np.sqrt(2) * np.abs(blur))))

    found, _ = curve_fit(edge, distance[chosen], mean[chosen], (0.0, height, 0.6, RADIUS_MM))
    return float(0.1874 / abs(found[2]))


def plain_water() -> np.ndarray:
    """(rows, columns) True in water within 70 mm, away from the inserts."""
    inside = _away((0.0, 0.0))[0] < 70
    for place in (*(place for place, _ in INSERTS), HALF_ROD):
        inside &= _away(place)[0] > RADIUS_MM + 4
    return np.asarray(inside)


def noise_hu(images: np.ndarray) -> float:
    """Standard deviation over seeds, root mean square over plain water."""
    return float(np.sqrt(images.var(axis=0, ddof=1)[:, plain_water()].mean()))


def row(name: str, images: np.ndarray, bias: str) -> str:
    mean = images.mean(axis=0)
    flat = mean[2:5].mean(axis=0)
    along = [np.mean([f50(flat, place, along_x=x) for place, _ in INSERTS]) for x in (True, False)]
    ends = mean[:, _away(HALF_ROD)[0] < 5].mean(axis=1)
    level = mean[:, plain_water()].mean()
    return (
        f"| {name} | {noise_hu(images):.0f} | {level:+.1f} | {along[0]:.2f} | {along[1]:.2f} |"
        f" {ends[3] - ends[2]:.0f} | {bias} |"
    )


def table() -> Iterator[str]:
    geometry, truth = body()
    scans = [scan(geometry, truth, seed) for seed in SEEDS]
    quanta = IN_AIR * np.exp(-truth)
    bands = [(quanta >= low) & (quanta < high) for low, high in BANDS]

    def made(steps: tuple[Step, ...]) -> tuple[np.ndarray, str]:
        corrected = [correct(one, steps) for one in scans]
        errors = [[float((one.integrals[band] - truth[band]).mean()) for band in bands] for one in corrected]
        shares = [100 * e / truth[band].mean() for e, band in zip(np.mean(errors, axis=0), bands, strict=True)]
        return np.stack([image(one) for one in corrected]), ", ".join(f"{share:+.2f}" for share in shares)

    names = (
        "method", "noise HU", "water HU", "f50 along x /mm", "f50 along z /mm", "step of the rod's end, HU",
        "bias of integrals at 1–5, 5–30, 30–300 quanta, %",
    )  # fmt: skip
    yield f"Fewest quanta behind the body: {quanta.min():.1f}.\n"
    yield f"| {' | '.join(names)} |\n{'|---' * len(names)}|"
    plain, bias = made(BASIC)
    yield row("log", plain, bias)
    for name, step in RESTORED:
        images, bias = made((*BASIC, step))
        yield row(name, images, bias)
        wanted = noise_hu(images)
        blur = brentq(lambda b, goal=wanted: noise_hu(gaussian_filter(plain, (0, 0, b, b))) - goal, 0.2, 4.0, xtol=0.01)
        yield row(f"log + blur of {blur * PIXEL_MM:.2f} mm", gaussian_filter(plain, (0, 0, blur, blur)), "")


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
