"""Cylinder of water, scanned axially and helically → what recipes cost beside `routine`; what a long chest holds."""

import dataclasses

import numpy as np

from bench.peers import Case
from lampyris import path, simulate
from lampyris.model import Geometry, Grid, GridRequest, Projections, Step
from lampyris.projector import Projector
from lampyris.recon import reconstruct

WATER = 0.0193
RADIUS_MM = 150.0
QUANTA, SEED = 2.0e4, 20261121
FIELD_MM = 400.0
SLICES, MARGIN = 12, 4
CHEST_MM, CHEST_PITCH = 600.0, 1.1


def _scan(geometry: Geometry) -> Projections:
    """A centred cylinder, the same in every view, with Gaussian noise of the counts' size."""
    origins, directions = geometry.rays(0)
    plane = np.hypot(directions[..., 0], directions[..., 2])
    miss = np.abs(origins[..., 0] * directions[..., 2] - origins[..., 2] * directions[..., 0]) / plane
    exact = (2 * WATER * np.sqrt(np.maximum(RADIUS_MM**2 - miss**2, 0)) / plane).astype(np.float32)
    weights = (QUANTA * np.exp(-exact)).astype(np.float32)
    rng, integrals = np.random.default_rng(SEED), np.empty(geometry.shape, np.float32)
    for view in range(geometry.views):
        integrals[view] = exact + rng.standard_normal(exact.shape, np.float32) / np.sqrt(weights)
    return Projections(
        integrals, np.broadcast_to(weights, geometry.shape).copy(), geometry, water_per_mm=WATER, scan_id="cylinder"
    )


def _request(first: float, last: float) -> GridRequest:
    return GridRequest(512, FIELD_MM, (0.0, 0.0), 1.0, first_mm=first, last_mm=last)


def _axial() -> tuple[Projections, GridRequest]:
    """24 rows of the 64-row scanner, 768 views, 12 slices of 512²."""
    gantry = dataclasses.replace(simulate.scanner("mdct64"), rows=24).gantry
    half = (SLICES - 1) / 2
    return _scan(Geometry.circular(gantry, np.arange(768) * 360.0 / 768)), _request(-half, half)


def _helical(coverage_mm: float, views_per_turn: int, pitch: float = 1.0) -> tuple[Projections, GridRequest]:
    """64 rows, slices of 1 mm over `coverage_mm` in the middle of what was scanned."""
    gantry = simulate.scanner("mdct64").gantry
    feed = pitch * gantry.collimation_mm
    turns = coverage_mm / feed + 2
    geometry = Geometry.helical(
        gantry, views=int(turns * views_per_turn), views_per_turn=views_per_turn, table_feed_mm=feed
    )
    middle = float(geometry.source[:, 1].mean())
    return _scan(geometry), _request(middle - coverage_mm / 2, middle + coverage_mm / 2 - 1)


def _recipe(name: str, scan: Projections, request: GridRequest) -> Case:
    recipe = path.recipe(name)
    return lambda: reconstruct(scan, recipe.method, recipe.kernel, request), None


def helical_routine() -> Case:
    """64 rows, 92 slices of 512²."""
    return _recipe("routine", *_helical(92.0, 1152))


def helical_swift() -> Case:
    return _recipe("swift", *_helical(92.0, 1152))


def axial_pair() -> Case:
    """One forward and one adjoint on the lattice that `micro` works on: 12 slices and 4 more on either side."""
    scan, _ = _axial()
    grid = Grid.centred((SLICES + 2 * MARGIN, 512, 512), (1.0, FIELD_MM / 512, FIELD_MM / 512))
    projector, image = Projector(scan.geometry, grid), np.full(grid.shape, WATER, np.float32)
    return lambda: projector.adjoint(projector.forward(image)), float(image.size) * scan.geometry.views


def axial_routine() -> Case:
    """24 rows, 768 views, 12 slices of 512²."""
    return _recipe("routine", *_axial())


def axial_micro() -> Case:
    return _recipe("micro", *_axial())


def axial_model() -> Case:
    return _recipe("model", *_axial())


def chest() -> Case:
    """`model` with one pass for 18, 600 slices of 512², 64 rows, 1152 views a turn: for the peak of memory."""
    scan, request = _helical(CHEST_MM, 1152, CHEST_PITCH)
    recipe = path.recipe("model")
    method = Step.of(recipe.method.name, **{**dict(recipe.method.settings), "iterations": 1})
    return lambda: reconstruct(scan, method, recipe.kernel, request).values.shape, None
