"""The engine on the card makes the processor's image, to a hundredth of a HU, of every kind of analytic scan."""

from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import (
    CardFullError,
    EngineUnavailable,
    FocalSpotShift,
    Gantry,
    Geometry,
    GridRequest,
    InputError,
    Projections,
    Step,
)
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.projector import load
from lampyris.projector.backprojection import ConeParallelData, ConeParallelScan
from lampyris.recon import reconstruct
from lampyris.recon.analytic import fdk, filtering, helical

WATER = 0.0193
BODY = (
    (Cylinder((9.0, 0.0, -6.0), (52.0, 41.0), 400.0), WATER),
    (Cylinder((21.0, 0.0, 14.0), (9.0, 9.0), 400.0), 0.25 * WATER),
)
SAME_HU = 0.01
"""float32 sums in another order, of some thousand HU; the most that is allowed is 0.5."""
CURVED = Gantry(541.0, 949.0, 5, 24, (9.7, 11.3), True, 1.7, 11.75)
FLAT = replace(CURVED, curved=False, central_row=2.3)
TURN = 11.0 + np.arange(24) * 15.0


@pytest.fixture(autouse=True)
def _card() -> None:
    try:
        load("cuda")
    except EngineUnavailable as error:
        pytest.skip(f"{error}; judged in a simulator by test_recon_cuda_simulated")


def scan(geometry: Geometry) -> Projections:
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in BODY:
        integrals += line_integrals(shape, geometry, per_mm)
    return Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry, water_per_mm=WATER)


HALF_A_CELL = 11.3 * 541 / 949 / 2 / (541 * (1 - 541 / 949))


def helix(
    *, sense: int = 1, curved: bool = True, views: int = 40, turns: float = 5 / 3, shift: FocalSpotShift | None = None
) -> Geometry:
    """A turn and two thirds, or more, the gantry turning either way, the table out."""
    along = turns * (np.arange(views) - (views - 1) / 2) / views
    gantry, travel = replace(CURVED, curved=curved), -0.6 * CURVED.collimation_mm * along
    angle = 11.0 + sense * 360.0 * turns / views * np.arange(views)
    return Geometry.circular(gantry, angle, axial_mm=3.0 + travel, shift=shift)


SCANS = {
    "wfbp of a helix": helix(),
    "wfbp of a helix, gantry backwards, flat": helix(sense=-1, curved=False),
    "wfbp of a spot flying in z and in plane": helix(
        views=80,
        shift=FocalSpotShift.alternating(
            80, (-HALF_A_CELL / 2, HALF_A_CELL / 2), (-0.9, -0.9, 0.9, 0.9), (0.1, 0.1, -0.1, -0.1)
        ),
    ),
    "wfbp of a turn at rest": Geometry.circular(CURVED, TURN),
    "fdk of a flat detector": Geometry.circular(FLAT, TURN),
    "fdk of a short scan on an arc": Geometry.circular(CURVED, TURN[:17]),
    "fbp of one row": Geometry.circular(replace(CURVED, rows=1, central_row=None), TURN),
    "fbp of parallel rays": Geometry.parallel_beam(
        7.0 + np.arange(18) * 10.0, rows=3, columns=24, cell_mm=(4.0, 6.3), central_column=11.3
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_the_card_makes_the_same_image(name: str) -> None:
    projections = scan(SCANS[name])
    method, request = Step(name.split()[0]), GridRequest(8, 130.0, (5.0, -4.0), 11.0 if "row" not in name else 5.6)
    expected = reconstruct(projections, method, "hann", request)
    found = reconstruct(projections, method, "hann", request, engine="cuda")
    assert np.ptp(expected.values) > 500.0
    assert expected.valid is not None
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=SAME_HU)


@pytest.mark.parametrize("name", ["wfbp of a helix", "fdk of a flat detector"])
def test_more_slices_than_a_thread_has_are_the_same(name: str) -> None:
    """Twenty and more of 1 mm, an eighth of them a thread's, on few voxels; the processor goes slice by slice."""
    projections, request = scan(SCANS[name]), GridRequest(4, 90.0, (5.0, -4.0), 5.6, 1.0)
    expected = reconstruct(projections, Step(name.split()[0]), "hann", request)
    found = reconstruct(projections, Step(name.split()[0]), "hann", request, engine="cuda")
    assert len(expected.values) > 8
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=SAME_HU)


def test_a_helix_that_the_card_does_not_hold_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gantry backwards, groups of 4 directions, 3 to a batch, some 22 directions at a time: parts, each in pieces."""
    projections, request = scan(helix(sense=-1, views=120, turns=6)), GridRequest(4, 60.0, (5.0, -4.0), 5.6, 5.0)
    expected = reconstruct(projections, Step("wfbp"), "hann", request)
    made, make = [], helical.ConeParallelData

    def counted(part: ConeParallelScan, weight: np.ndarray, *, engine: str) -> ConeParallelData:
        made.append(part.views)
        return make(part, weight, engine=engine)

    monkeypatch.setattr(helical, "ConeParallelData", counted)
    monkeypatch.setattr(helical, "CARD_DATA", 1e-5)
    monkeypatch.setattr(filtering, "CHUNK_BYTES", 4 * 4 * 5 * 48)
    monkeypatch.setattr(helical, "MOST_BATCH_BYTES", 12 * 4 * 5 * 24)
    found = reconstruct(projections, Step("wfbp"), "hann", request, engine="cuda")
    assert len(made) > 1
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=SAME_HU)


def test_parallel_rays_that_the_card_does_not_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(fdk, "filter_and_backproject", full)
    request = GridRequest(9, 90.0, (5.0, -4.0), 4.0)
    with pytest.raises(CardFullError, match=r"3 slices of parallel rays, 9 × 9: the card is full, \d+ MiB of"):
        reconstruct(scan(SCANS["fbp of parallel rays"]), Step("fbp"), "hann", request, engine="cuda")


def test_the_reference_makes_no_images() -> None:
    with pytest.raises(InputError, match="cpu and cuda do"):
        reconstruct(scan(SCANS["fbp of one row"]), Step("fbp"), "hann", GridRequest(9), engine="reference")
