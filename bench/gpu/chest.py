"""A long helix of water in a container → what each recipe takes of a card, and how far its image is from the CPU's.

One turn is simulated and repeated: the cylinder is the same in every turn, and so is its noise. The whole way is timed
as a worker goes it, from the file to the volume: reading, correction, reconstruction.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.gpu.ceilings import Ceilings
from bench.gpu.memory import watched
from lampyris import path, raw, recipes, simulate
from lampyris.model import Geometry, Projections, Recipe, Step, Volume
from lampyris.phantom import water_cylinder

SEED = 20261122
OPERATIONS = 12
"""Float32 operations for a voxel and a view: a share of 8, a weight, an overlap, a product and a sum."""


@dataclass(frozen=True, slots=True)
class Chest:
    """A helix of so many turns, mAs a turn, and the image that is wanted of it; `diameter_mm` of the water."""

    scanner: simulate.Scanner
    turns: float
    pitch: float
    mas: float
    slices: int
    thickness_mm: float
    matrix: int
    field_of_view_mm: float
    diameter_mm: float

    @property
    def geometry(self) -> Geometry:
        """The views, the middle of the helix at y = 0."""
        gantry, per_turn = self.scanner.gantry, self.scanner.views_per_turn
        feed = self.pitch * gantry.collimation_mm
        views = round(self.turns * per_turn)
        return Geometry.helical(
            gantry, views=views, views_per_turn=per_turn, table_feed_mm=feed, start_axial_mm=-feed * self.turns / 2
        )

    @property
    def named(self) -> str:
        views, rows, columns = self.geometry.shape
        return (
            f"{views} views of {rows} × {columns}, {self.scanner.views_per_turn} a turn →"
            f" {self.matrix}² × {self.slices} of {self.thickness_mm:g} mm"
        )

    def short(self, slices: int, matrix: int) -> "Chest":
        """The same scan, of which less is wanted."""
        return dataclasses.replace(self, slices=slices, matrix=matrix)


FULL = Chest(simulate.scanner("mdct64"), 15.0, 1.2, 20.0, 600, 1.0, 512, 400.0, 300.0)
TINY = Chest(
    dataclasses.replace(
        simulate.scanner("small"), rows=4, columns=16, cell_mm=(9.0, 34.0), views_per_turn=12, bad_cells=()
    ),
    2.0, 0.9, 0.5, 2, 6.0, 8, 240.0, 120.0,
)  # fmt: skip


def scan(chest: Chest, place: Path) -> None:
    """The scan in a container, counts as they are, compressed for a disk."""
    scanner, geometry = chest.scanner, chest.geometry
    protocol = simulate.Protocol(mas=chest.mas, pitch=chest.pitch, first_mm=0.0, last_mm=0.0)
    body = water_cylinder(chest.diameter_mm, 10 * scanner.gantry.collimation_mm)
    one = simulate.scan(body, scanner, protocol, seed=SEED)
    turn = np.arange(geometry.views) % scanner.views_per_turn
    whole = dataclasses.replace(
        one, counts=np.asarray(one.counts)[turn], geometry=geometry, exposure_mas=one.exposure_mas[turn], id=""
    )
    raw.write(whole, place)


def recipe(name: str, chest: Chest, *, quick: bool) -> Recipe:
    """The package's recipe with this chest's image; `quick`: of iterations as few as there can be."""
    whole = recipes.recipe(name)
    half = (chest.slices - 1) / 2 * chest.thickness_mm
    grid = dataclasses.replace(
        whole.grid, matrix=chest.matrix, field_of_view_mm=chest.field_of_view_mm, centre_mm=(0.0, 0.0),
        slice_thickness_mm=chest.thickness_mm, first_mm=-half, last_mm=half,
    )  # fmt: skip
    settings = dict(whole.method.settings)
    fewest = {"iterations": 1, "subsets": 2, "returns": 1}
    if quick:
        settings |= {key: value for key, value in fewest.items() if key in settings}
    return dataclasses.replace(whole, grid=grid, method=Step.of(whole.method.name, **settings))


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """One scan from its file to the volume: seconds by station, and the card's memory that was taken at most."""

    volume: Volume
    seconds: dict[str, float]
    card_bytes: int


def done(place: Path, chosen: Recipe, engine: str) -> Done:
    """Go the whole way once."""
    began = time.perf_counter()
    with watched(engine) as memory:
        made = path.travel((raw.read(place), chosen), Volume, engine=engine)
    seconds = dict(made.seconds)
    seconds["reading"] = time.perf_counter() - began - sum(seconds.values())
    return Done(made.the(Volume), seconds, memory.most)


def corrected(place: Path, chosen: Recipe) -> Projections:
    """The scan in a container after the recipe's corrections, which all recipes for the body share."""
    return path.travel((raw.read(place), chosen), Projections).the(Projections)


def off_hu(projections: Projections, chosen: Recipe) -> tuple[float, float]:
    """Largest difference of the card's image to the CPU engine's, and its root mean square, HU."""
    ours, theirs = (
        path.travel((projections, chosen), Volume, engine=engine).the(Volume).values for engine in ("cuda", "cpu")
    )
    difference = ours.astype(np.float64) - theirs
    return float(np.abs(difference).max()), float(np.sqrt((difference**2).mean()))


def floor_s(chest: Chest, chosen: Recipe, limits: Ceilings) -> float:
    """What the reconstruct station cannot be faster than on this card, s: the greatest of three.

    Integrals up and the image down once over the link; the same once through the card's memory; and `OPERATIONS` for
    every voxel in every view of half a turn (analytic), or of one pitch-th of a turn, there and back, in every pass
    (iterative). What a learned prior takes is left out, so that the floor of a recipe with one is rather too low.
    """
    geometry, voxels = chest.geometry, float(chest.slices * chest.matrix**2)
    moved = 4.0 * (float(np.prod(geometry.shape)) + voxels)
    settings = dict(chosen.method.settings)
    passes = int(settings.get("iterations", 0)) + int(settings.get("returns", 0))
    views = chest.scanner.views_per_turn * (2 * passes / max(chest.pitch, 1.0) if passes else 0.5)
    arithmetic = OPERATIONS * voxels * views / limits.flops_per_s
    return max(moved / limits.link_bytes_per_s, moved / limits.bytes_per_s, arithmetic)
