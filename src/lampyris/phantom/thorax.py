"""A seed → an anthropomorphic thorax, head first and supine: the patient's left is +x, anterior +z, superior +y.

Own design, dimensions of a slim adult after usual anatomy: torso 344 × 236 mm, 300 mm long; lungs with a tree of
vessels and nodules of 4 to 10 mm; heart with chambers, aorta, trachea and main bronchi; spine, ribs, sternum; liver and
left dome of the diaphragm; subcutaneous and mediastinal fat; a table if wanted.
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float64
from lampyris.phantom.assembly import Insert, Part, Phantom
from lampyris.phantom.shapes import Box, Clipped, Cylinder, Ellipsoid, HalfSpace, Shape
from lampyris.phantom.vessels import Branch, grow, share, tube

TISSUE, FAT, BLOOD, AIR = "soft_tissue", "adipose", "blood", "air"
LUNG, CARTILAGE, GROUND_GLASS = "lung*0.6", "soft_tissue*1.07", "lung*1.6"
COMPACT, SPONGY = "cortical_bone*0.85", "spongiosa"
HALF_LENGTH_MM = 150.0
CAGE_CENTRE, CAGE_MM = np.array([0.0, -60.0, 0.0]), np.array([132.0, 195.0, 84.0])
VERTEBRA_PITCH_MM = 27.0

NODULES = (
    ("nodule 10 mm", (-88.0, 22.0, 28.0), 5.0, TISSUE),
    ("nodule 8 mm", (92.0, 45.0, -18.0), 4.0, TISSUE),
    ("nodule 6 mm", (-70.0, -20.0, -48.0), 3.0, TISSUE),
    ("nodule 5 mm", (85.0, 5.0, 30.0), 2.5, TISSUE),
    ("nodule 4 mm", (-60.0, 72.0, -10.0), 2.0, TISSUE),
    ("ground glass 10 mm", (72.0, -30.0, -46.0), 5.0, GROUND_GLASS),
)
"""Name, centre (x, y, z) mm, radius mm and material."""
LUNG_REGIONS = (("lung right", (-100.0, -25.0, 5.0), 10.0), ("lung left", (100.0, 22.0, 5.0), 10.0))


def thorax(*, seed: int = 7, table: bool = False) -> Phantom:
    """The thorax, −150…150 mm along the rotation axis. `seed` shapes the vessels; `table` adds a flat couch below."""
    lungs = _lungs()
    parts = [*_torso(), *(Part(lung, LUNG, TISSUE) for lung in lungs)]
    parts += _heart_and_vessels(lungs) + _abdomen(lungs) + _airways(lungs)
    parts += _spine() + _ribs() + _sternum() + _lung_tree(lungs, np.random.default_rng(seed))
    parts += [Part(Ellipsoid(centre, (r, r, r)), material, LUNG) for _, centre, r, material in NODULES]
    if table:
        parts += _table()
    return Phantom(tuple(parts), _inserts(), "thorax")


def _inserts() -> tuple[Insert, ...]:
    regions = [Insert(name, centre, radius, LUNG) for name, centre, radius in LUNG_REGIONS]
    regions += [Insert(name, centre, radius, material) for name, centre, radius, material in NODULES]
    regions += [
        Insert("left ventricle", (38.0, -40.0, 14.0), 14.0, BLOOD),
        Insert("aorta", (24.0, -40.0, -33.0), 8.0, BLOOD),
        Insert("liver", (-52.0, -115.0, 5.0), 20.0, "liver"),
        Insert("vertebra", (0.0, _levels()[4], -50.0), 9.0, SPONGY),
        Insert("trachea", (-6.0, 55.0, -12.0), 8.5, AIR),
        Insert("muscle", (0.0, -100.0, 60.0), 10.0, TISSUE),
        Insert("fat", (161.0, 0.0, 0.0), 4.0, FAT),
    ]
    return tuple(regions)


def _torso() -> list[Part]:
    layers = (((172.0, 118.0), TISSUE, None), ((170.5, 116.5), FAT, TISSUE), ((151.0, 101.0), TISSUE, FAT))
    parts = [Part(Cylinder((0, 0, 0), radii, 2 * HALF_LENGTH_MM), material, over) for radii, material, over in layers]
    parts.append(Part(Ellipsoid((0.0, 62.0, 56.0), (11.0, 36.0, 15.0)), FAT, TISSUE))
    return parts


def _lungs() -> tuple[Shape, Shape]:
    """The rib cage's inside, rounded towards the mediastinum by a second ellipsoid for each side."""
    cage = Ellipsoid(tuple(CAGE_CENTRE), tuple(CAGE_MM - (2.0, 0.0, 2.0)))
    base = HalfSpace((0.0, -135.0, 0.0), (0.0, -1.0, 0.0))
    right, left = (Ellipsoid((x, -60.0, -4.0), (64.0, 195.0, 92.0)).clipped(cage, base) for x in (-82.0, 82.0))
    return right, left


def _over(shape: Shape, material: str, lungs: Iterable[Shape]) -> list[Part]:
    """A part that lies in soft tissue and in the lungs: where it meets a lung, it is first given back to tissue."""
    own = [] if material == TISSUE else [Part(shape, material, TISSUE)]
    return own + [Part(Clipped(shape, (lung,)), TISSUE, LUNG) for lung in lungs]


def _heart_and_vessels(lungs: tuple[Shape, Shape]) -> list[Part]:
    axis, across = (0.8, -0.6, 0.0), (0.6, 0.8, 0.0)
    parts = _over(Ellipsoid((24.0, -26.0, 24.0), (60.0, 44.0, 44.0), axis, across), TISSUE, lungs)
    chambers = (
        ((40.0, -40.0, 14.0), (27.0, 19.0, 19.0)),
        ((14.0, -34.0, 46.0), (28.0, 20.0, 10.0)),
        ((6.0, -14.0, -8.0), (20.0, 14.0, 12.0)),
    )
    parts += [Part(Ellipsoid(centre, sizes, axis, across), BLOOD, TISSUE) for centre, sizes in chambers]
    aorta = [
        (-6, 5, 26), (-8, 50, 24), (-2, 66, 18), (8, 75, 8), (18, 77, -6), (24, 70, -20), (26, 55, -30), (24, 30, -33),
        (24, -HALF_LENGTH_MM, -33),
    ]  # fmt: skip
    for piece in tube(aorta, 12.0):
        parts += _over(piece, BLOOD, lungs)
    return parts


def _abdomen(lungs: tuple[Shape, Shape]) -> list[Part]:
    floor = HalfSpace((0.0, -HALF_LENGTH_MM, 0.0), (0.0, -1.0, 0.0))
    spine_side = HalfSpace((-20.0, 0.0, -32.0), (0.6, 0.0, -0.8))
    liver = Ellipsoid((-52.0, -150.0, 2.0), (62.0, 90.0, 70.0)).clipped(floor, spine_side)
    dome = Ellipsoid((79.0, -160.0, 0.0), (41.5, 82.0, 66.0)).clipped(floor)
    parts = _over(liver, "liver", lungs) + _over(dome, TISSUE, lungs)
    return [*parts, Part(Ellipsoid((76.0, -122.0, 28.0), (18.0, 12.0, 14.0)), AIR, TISSUE)]


def _airways(lungs: tuple[Shape, Shape]) -> list[Part]:
    carina = np.array([-6.0, 34.0, -12.0])
    top = np.array([-6.0, HALF_LENGTH_MM, -12.0])
    ways = [np.array([0.0, 1.0, 0.0]), _unit(-34.0, -26.0, -3.0), _unit(38.0, -24.0, -3.0)]
    cuts = share(carina, ways)
    branches = [
        Branch(carina, top, 8.5, cuts[0]),
        Branch(carina, carina + 40.0 * ways[1], 6.5, cuts[1]),
        Branch(carina, carina + 42.0 * ways[2], 6.0, cuts[2]),
    ]
    return [part for branch in branches for part in _over(branch.shape(), AIR, lungs)]


def _levels() -> list[float]:
    return [float(y) for y in np.arange(-5, 6) * VERTEBRA_PITCH_MM]


def _spine() -> list[Part]:
    """Bodies with a compact shell, pedicles and lamina about the canal, transverse and spinous processes."""
    parts = []
    for y in _levels():
        parts.append(Part(Cylinder((0, y, -50), (17, 14), 22), COMPACT, TISSUE))
        parts.append(Part(Cylinder((0, y, -50), (15.5, 12.5), 20), SPONGY, COMPACT))
        parts.append(Part(Cylinder((0, y, -75), (13, 11), 16).clipped(_behind(-64.0)), COMPACT, TISSUE))
        parts.append(Part(Cylinder((0, y, -75), (9, 7.5), 16).clipped(_behind(-64.0)), TISSUE, COMPACT))
        for side in (-1.0, 1.0):
            parts.append(Part(Ellipsoid((side * 27, y, -74), (13.5, 6, 5)), COMPACT, TISSUE))
            parts.append(Part(Ellipsoid((side * 27, y, -74), (11, 4, 3)), SPONGY, COMPACT))
        parts.append(Part(Ellipsoid((0, y - 4, -92.5), (3, 9, 6.2)), COMPACT, TISSUE))
    return parts


def _behind(z_mm: float) -> HalfSpace:
    return HalfSpace((0.0, 0.0, z_mm), (0.0, 0.0, 1.0))


def _ribs() -> list[Part]:
    """Ten pairs on the cage, sinking towards the front, compact shells about marrow; cartilage to the sternum."""
    parts = []
    for side in (-1.0, 1.0):
        for y in _levels()[1:]:
            angles = [*np.linspace(20.0, 140.0, 12), *np.linspace(148.0, 165.0, 3)]
            line = [_rib_point(side, y - 13.0, angle) for angle in angles]
            line = [point for point in line if point[1] > -HALF_LENGTH_MM + 6.0]
            bony = min(len(line) - 1, 11)
            pieces, marrow = tube(line, 5.0), tube(line, 3.4)[:bony]
            for outer, inner in zip(pieces[:bony], marrow, strict=True):
                parts += [Part(outer, COMPACT, TISSUE), Part(inner, SPONGY, COMPACT)]
            if line[-1][1] > -55.0:
                parts += [Part(piece, CARTILAGE, TISSUE) for piece in pieces[bony:]]
    return parts


def _rib_point(side: float, y_mm: float, angle_deg: float) -> tuple[float, float, float]:
    """A point on the ellipse that lies 10 mm outside the cage at its height, `angle_deg` from the spine."""
    y = y_mm - 60.0 * (angle_deg / 150.0) ** 1.2
    squeeze = np.sqrt(max(1 - ((y - CAGE_CENTRE[1]) / (CAGE_MM[1] + 12.0)) ** 2, 0.0))
    angle = np.deg2rad(angle_deg)
    across, deep = CAGE_MM[0] * squeeze + 10.0, CAGE_MM[2] * squeeze + 10.0
    return float(side * across * np.sin(angle)), float(y), float(-deep * np.cos(angle))


def _sternum() -> list[Part]:
    return [
        Part(Box((0.0, 30.0, 92.5), (34.0, 130.0, 10.0)), COMPACT, TISSUE),
        Part(Box((0.0, 30.0, 92.5), (31.0, 127.0, 7.0)), SPONGY, COMPACT),
    ]


def _lung_tree(lungs: tuple[Shape, Shape], rng: np.random.Generator) -> list[Part]:
    """From each hilum four trunks: up, aside, forward and down."""
    parts = []
    organs = [part.shape for part in _heart_and_vessels(lungs) + _abdomen(lungs) + _airways(lungs)]
    for side, lung in zip((-1.0, 1.0), lungs, strict=True):
        allowed, taken = _room(lung, organs), list[Branch]()
        for target in ((0.5, 0.8, -0.1), (0.9, 0.0, -0.35), (0.6, 0.5, 0.65), (0.45, -0.75, -0.45)):
            way = _unit(side * target[0], target[1], target[2])
            start = np.array([side * 46.0, 8.0, -22.0]) + 12.0 * way
            for branch in grow(Branch(start, start + 22.0 * way, 4.0), 7, allowed, taken, rng):
                parts.append(Part(branch.shape(), BLOOD, LUNG))
    return parts


def _room(lung: Shape, organs: list[Shape]) -> Callable[[Float64], Bool]:
    """Where vessels may grow: in the lung, 4 mm off its surface and off organs, nodules and measured regions."""
    step, first = 4.0, np.array([-HALF_LENGTH_MM, -HALF_LENGTH_MM, -100.0])
    axes = [np.arange(low, -low + step, step) for low in first]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    free = lung.contains(lattice)
    points = lattice[free]
    blocked = np.zeros(len(points), np.bool_)
    for organ in organs:
        blocked |= organ.contains(points)
    for centre, radius in [(c, r) for _, c, r, _ in NODULES] + [(c, r) for _, c, r in LUNG_REGIONS]:
        blocked |= np.linalg.norm(points - np.asarray(centre), axis=-1) <= radius
    free[free] = ~blocked
    free = ndimage.binary_erosion(free, ndimage.generate_binary_structure(3, 1))

    def allowed(path: Float64) -> Bool:
        index = np.rint((path - first) / step).astype(np.int64)
        inside = ((index >= 0) & (index < free.shape)).all(-1)
        return np.asarray(inside & free[tuple(np.where(inside[:, None], index, 0).T)], np.bool_)

    return allowed


def _table() -> list[Part]:
    """A couch top of carbon fibre over foam, 420 mm wide, 1 mm below the skin."""
    return [
        Part(Box((0.0, 0.0, -131.0), (420.0, 2 * HALF_LENGTH_MM, 24.0)), "graphite*0.9"),
        Part(Box((0.0, 0.0, -131.0), (416.0, 2 * HALF_LENGTH_MM, 20.0)), "polyethylene*0.05", "graphite*0.9"),
    ]


def _unit(x: float, y: float, z: float) -> Float64:
    vector = np.array([x, y, z])
    return np.asarray(vector / np.linalg.norm(vector), np.float64)
