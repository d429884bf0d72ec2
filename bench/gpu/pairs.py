"""A case → how far the card is from the CPU engine, and the card's seconds over its floor: the pair, and voxels."""

import time
from dataclasses import dataclass

import numpy as np

from bench.gpu.ceilings import Ceilings
from lampyris import simulate
from lampyris.model import Float32, Gantry, Geometry, Grid
from lampyris.projector import Projector, backproject


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A geometry and a lattice; `judged`: small enough for the CPU engine to be asked too."""

    name: str
    geometry: Geometry
    grid: Grid
    judged: bool


def cases(*, quick: bool) -> list[Case]:
    """Lopsided small ones that the CPU judges, and the sizes that the issue of a province's images names."""
    gantry = simulate.scanner("mdct64").gantry
    small = Gantry(541.0, 949.0, 5, 31, (5.4, 5.1), True, 1.6, 16.25)
    if not quick:
        small = Gantry(541.0, 949.0, 37, 351, (1.3, 1.1), True, 16.6, 176.25)
    views = 4 if quick else 90
    turn = 23.0 + np.arange(views) * 360.0 / views
    lattice = Grid.centred((5, 9, 11) if quick else (24, 150, 170), (1.7, 2.3, 2.1), (3.7, 0.9, -5.2))
    found = [
        Case("cone, small", Geometry.circular(small, turn, axial_mm=1.3), lattice, True),
        Case(
            "helix, small",
            Geometry.helical(small, views=views, views_per_turn=max(4, views // 2), table_feed_mm=-6.3),
            lattice, True,
        ),
    ]  # fmt: skip
    if not quick:
        flat = Geometry.circular(_cone_beam(768), np.arange(720) * 0.5)
        found.append(Case("cone, 512³ of 720 × 768²", flat, Grid.centred((512, 512, 512), (0.5, 0.5, 0.5)), False))
        feed = 1.1 * gantry.collimation_mm
        helix = Geometry.helical(gantry, views=3 * 1152, views_per_turn=1152, table_feed_mm=feed)
        middle = float(helix.source[:, 1].mean())
        slab = Grid.centred((64, 512, 512), (1.0, 0.78, 0.78), (0.0, middle, 0.0))
        found.append(Case("helix, 512² × 64, 3 turns of 1152 × 64 × 736", helix, slab, False))
    return found


def _cone_beam(cells: int) -> Gantry:
    return Gantry(1000.0, 1500.0, cells, cells, (0.6, 0.6), False)


def judged(case: Case) -> dict[str, float]:
    """Largest difference to the CPU engine over the largest value, of both directions; what the pair is off by."""
    card, judge = Projector(case.geometry, case.grid, "cuda"), Projector(case.geometry, case.grid, "cpu")
    image, cells = _data(case)
    made, back = card.forward(image), card.adjoint(cells)
    expected, returned = judge.forward(image), judge.adjoint(cells)
    summed = {name: backproject(cells, case.geometry, case.grid, engine=name) for name in ("cpu", "cuda")}
    left, right = float(np.vdot(made.astype(np.float64), cells)), float(np.vdot(image.astype(np.float64), back))
    size = float(np.linalg.norm(made.astype(np.float64)) * np.linalg.norm(cells))
    return {
        "forward": float(np.abs(made - expected).max() / np.abs(expected).max()),
        "adjoint": float(np.abs(back - returned).max() / np.abs(returned).max()),
        "pair": abs(left - right) / size,
        "voxels": float(np.abs(summed["cuda"] - summed["cpu"]).max() / np.abs(summed["cpu"]).max()),
    }


def timed(case: Case, limits: Ceilings) -> dict[str, tuple[float, float]]:
    """Seconds of both directions and of voxels, copies to and from the card included, and these over the floor.

    The floor is the greater of two: image and projections once through the card's memory; and 12 float32 operations (a
    share of 8, a weight, an overlap, a product and a sum, spread over the rows) for every voxel in every view.
    """
    card = Projector(case.geometry, case.grid, "cuda")
    image, cells = _data(case)
    updates = float(np.prod(case.grid.shape)) * case.geometry.views
    moved = 4.0 * (np.prod(case.grid.shape) + np.prod(case.geometry.shape))
    floor = max(moved / limits.bytes_per_s, 12 * updates / limits.flops_per_s)
    found = {}

    def voxels(given: Float32) -> Float32:
        return backproject(given, case.geometry, case.grid, engine="cuda")

    for name, work, given in (
        ("forward", card.forward, image),
        ("adjoint", card.adjoint, cells),
        ("voxels", voxels, cells),
    ):
        work(given)
        began = time.perf_counter()
        work(given)
        took = time.perf_counter() - began
        found[name] = (took, took / floor)
    return found


def _data(case: Case) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(6)
    return (
        rng.standard_normal(case.grid.shape, dtype=np.float32),
        rng.standard_normal(case.geometry.shape, dtype=np.float32),
    )
