"""Random generator, sources and a box in mm → one training body in HU: anatomy, procedural or mixed, with inserts.

Seven in ten bodies come from real series, a seventh from `phantom.thorax` (never the default seed, stretched and
flipped), the rest is drawn. Small inserts of known kinds (nodules 3–12 mm, rods, low contrasts 3–30 HU) go into all.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from lampyris.model import Float32, Float64, Grid
from lampyris.phantom import thorax, voxelise
from train import shapes

KINDS = (("abdomen", 0.32), ("chest", 0.32), ("aorta", 0.06), ("thorax", 0.14), ("drawn", 0.16))
AIR = -1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """HU of a slab on a centred grid, what it was made from, and the radius about the axis that holds it."""

    hu: Float32
    grid: Grid
    kind: str
    reach_mm: float


def body(rng: np.random.Generator, sources: dict[str, Float32], length_mm: float, *, columns: int = 384) -> Body:
    """A slab of that length along the axis; bodies are 180 to 450 mm wide."""
    kind = str(rng.choice([name for name, _ in KINDS], p=[share for _, share in KINDS]))
    wide_mm = float(rng.triangular(180.0, 280.0, 450.0))
    tall = float(rng.uniform(0.62, 0.9))
    pixel_mm = wide_mm * 1.06 / columns
    slice_mm = float(rng.uniform(0.9, 1.4))
    shape = (max(8, int(np.ceil(length_mm / slice_mm))), int(columns * min(1.0, tall + 0.12)), columns)
    grid = Grid.centred(shape, (slice_mm, pixel_mm, pixel_mm))
    if kind == "thorax":
        hu = _thorax(rng, grid, wide_mm)
    else:
        hu = _torso(rng, shape, wide_mm / pixel_mm / 2, tall)
        if kind == "drawn":
            _draw(rng, hu, pixel_mm)
        else:
            _embed(rng, hu, sources[kind], wide_mm, pixel_mm)
    _inserts(rng, hu, pixel_mm)
    inside = (hu > -700).any(axis=0)
    rows, cols = np.nonzero(inside)
    away = np.hypot(rows - (shape[1] - 1) / 2, cols - (shape[2] - 1) / 2)
    return Body(np.clip(hu, AIR, 3000.0), grid, kind, float(away.max() + 1.5) * pixel_mm)


def _torso(rng: np.random.Generator, shape: tuple[int, ...], half_columns: float, tall: float) -> Float32:
    """An ellipse of soft tissue in a rim of fat."""
    hu = np.full(shape, AIR, np.float32)
    centre = (np.asarray(shape[1:]) - 1) / 2
    middle = np.array([shape[0] / 2, *centre])
    radii = np.array([1e4, half_columns * tall, half_columns])
    rim = half_columns * rng.uniform(0.03, 0.16)
    shapes.ball(hu, middle, radii, float(rng.uniform(-120, -80)))
    shapes.ball(hu, middle, radii - (0, rim, rim), float(rng.uniform(0, 70)))
    return hu


def _embed(rng: np.random.Generator, hu: Float32, source: Float32, wide_mm: float, pixel_mm: float) -> None:
    """Paste a piece of a real volume, resized at random and faded at its border, into the torso."""
    slices, rows, columns = hu.shape
    whole = source.shape == (160, 256, 256)
    side = (wide_mm * 1.04 if whole else wide_mm * float(rng.uniform(0.55, 0.72))) / pixel_mm
    factor = side / source.shape[2]
    thick = int(np.clip(round(slices / rng.uniform(1.0, 2.4)), 4, len(source)))
    first = int(rng.integers(0, len(source) - thick + 1))
    piece = source[first : first + thick]
    if rng.random() < 0.5:
        piece = piece[:, :, ::-1]
    if rng.random() < 0.5:
        piece = piece[::-1]
    scale = (slices / thick, factor * float(rng.uniform(0.9, 1.05)), factor)
    piece = zoom(piece, scale, order=1 if slices * factor > 60 else 3, grid_mode=True, mode="nearest")[:slices]
    high, wide = min(rows, piece.shape[1]), min(columns, piece.shape[2])
    piece = piece[:, (piece.shape[1] - high) // 2 :, (piece.shape[2] - wide) // 2 :][:, :high, :wide]
    top, left = (rows - high) // 2, (columns - wide) // 2
    target = hu[:, top : top + high, left : left + wide]
    if whole:
        hu[...] = AIR
        target[...] = piece
        return
    across, along = np.linspace(-1, 1, wide), np.linspace(-1, 1, high)
    away = np.hypot(along[:, None], across[None, :]).astype(np.float32)
    share = np.clip((0.98 - away) / 0.08, 0.0, 1.0)
    target += share * (piece - target)


def _thorax(rng: np.random.Generator, grid: Grid, wide_mm: float) -> Float32:
    """Another seed's thorax, cut anywhere, stretched to the wanted width."""
    stretch = wide_mm / 344.0
    y = float(rng.uniform(-90.0, 90.0))
    rows_mm = grid.spacing_mm[1] / stretch / float(rng.uniform(0.9, 1.1))
    spacing = (grid.spacing_mm[0], rows_mm, grid.spacing_mm[2] / stretch)
    taken = Grid.centred(grid.shape, spacing, (0.0, y, 0.0))
    made = voxelise(thorax(seed=int(rng.integers(1000, 10**6))), taken, energy_kev=68.0, quantity="HU", oversample=2)
    hu = np.maximum(made.values, AIR)
    lung = (hu < -500) & (hu > -950)
    hu = hu + lung * shapes.texture(hu.shape, rng, float(rng.uniform(0.8, 2.5)), float(rng.uniform(5, 50)))
    hu = hu[:, :, :: int(rng.choice((-1, 1)))]
    return np.asarray(hu, np.float32)


def _draw(rng: np.random.Generator, hu: Float32, pixel_mm: float) -> None:
    """Organs, lungs with vessels, bones, all at random, within the torso."""
    torso = hu > -300
    for _ in range(int(rng.integers(6, 18))):
        radii = rng.uniform(6.0, 60.0, 3) / pixel_mm
        value = float(rng.choice((rng.uniform(-110, -70), rng.uniform(0, 90), rng.uniform(90, 350))))
        shapes.ball(hu, _place(rng, torso), radii, value)
    hu += shapes.texture(hu.shape, rng, float(rng.uniform(1.5, 8.0)), float(rng.uniform(1.0, 9.0)))
    for _ in range(int(rng.integers(0, 3))):
        _lung(rng, hu, _place(rng, torso), rng.uniform(30.0, 90.0, 3) / pixel_mm)
    for _ in range(int(rng.integers(1, 7))):
        _bone(rng, hu, _place(rng, torso), rng.uniform(4.0, 28.0, 3) / pixel_mm)
    smooth = gaussian_filter(torso.astype(np.float32), (0, 1, 1))
    hu += (1 - smooth) * (AIR - hu)


def _lung(rng: np.random.Generator, hu: Float32, centre: Float64, radii: Float64) -> None:
    grain = shapes.texture(hu.shape, rng, float(rng.uniform(0.8, 3.0)), float(rng.uniform(8, 60)))
    level = float(rng.uniform(-900, -720))
    air = shapes.texture(hu.shape, rng, float(rng.uniform(2.0, 6.0)), 1.0)
    filled = np.where(air > rng.uniform(1.0, 3.5), np.float32(-975.0), level + grain)
    inside = np.zeros_like(hu)
    shapes.ball(inside, centre, radii, 1.0)
    hu += inside * (filled - hu)
    for _ in range(int(rng.integers(5, 25))):
        start = centre + rng.uniform(-0.5, 0.5, 3) * radii
        shapes.vessel(hu, rng, start, float(rng.uniform(0.8, 5.0)), float(rng.uniform(0, 120)), inside)


def _bone(rng: np.random.Generator, hu: Float32, centre: Float64, radii: Float64) -> None:
    radii = radii * (4.0, 1.0, 1.0)
    spongy = float(rng.uniform(120, 400)) + shapes.texture(
        hu.shape, rng, float(rng.uniform(0.8, 2.0)), float(rng.uniform(10, 120))
    )
    shapes.ball(hu, centre, radii, float(rng.uniform(500, 1600)))
    shapes.ball(hu, centre, np.maximum(radii - rng.uniform(1.5, 5.0), 0.6), spongy)


def _inserts(rng: np.random.Generator, hu: Float32, pixel_mm: float) -> None:
    """Nodules in lungs; rods and balls of every contrast anywhere in the body."""
    inside = hu > -950
    inside[:, :5], inside[:, -5:] = False, False
    lung = (hu < -600) & inside
    if lung.mean() > 0.02:
        for _ in range(int(rng.integers(2, 10))):
            radius = float(rng.uniform(1.5, 6.0))
            radii = radius * np.array([0.9, 1 / pixel_mm, 1 / pixel_mm])
            shapes.ball(hu, _place(rng, lung), radii, float(rng.choice((rng.uniform(-700, -300), 30.0))))
    for _ in range(int(rng.integers(8, 24))):
        contrast = float(rng.choice((-1, 1)) * rng.choice((rng.uniform(3, 30), rng.uniform(30, 200))))
        if rng.random() < 0.2:
            contrast = float(rng.uniform(-900, 1000))
        radius = float(rng.uniform(1.0, 8.0)) / pixel_mm
        at = _place(rng, inside)
        if rng.random() < 0.5:
            shapes.rod(hu, at[1:], radius, contrast, add=True)
        else:
            shapes.ball(hu, at, np.array([radius * pixel_mm, radius, radius]), contrast, add=True)


def _place(rng: np.random.Generator, where: np.ndarray) -> Float64:
    """A random voxel among those that are True."""
    chosen = np.flatnonzero(where)
    index = chosen[rng.integers(len(chosen))] if len(chosen) else where.size // 2
    return np.array(np.unravel_index(index, where.shape), np.float64)
