"""The operator's own doors: what it refuses, what a subset is, what its norm is; one slab by hand."""

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numba
import numpy as np
import pytest

from lampyris.model import EngineUnavailable, Gantry, Geometry, Grid, InputError
from lampyris.projector import Projector

GANTRY = Gantry(541.0, 949.0, 4, 17, (2.9, 5.3), True, 1.2, 8.75)
GEOMETRY = Geometry.helical(GANTRY, views=5, views_per_turn=4, table_feed_mm=7.0, start_angle_deg=31.0)
GRID = Grid.centred((6, 5, 7), (1.7, 8.3, 6.1), (3.0, -2.0, 4.0))


@pytest.fixture
def operator() -> Projector:
    return Projector(GEOMETRY, GRID)


def test_a_wide_slab_is_its_thickness_over_the_cosine() -> None:
    """4 rows of 2.5 mm of 0.02/mm, seen from above: 0.2 straight down, and 0.2/cos θ under the angle of each cell."""
    flat = Gantry(541.0, 949.0, 3, 5, (31.0, 47.0), False, 0.7, 2.2)
    slab = Grid.centred((70, 4, 90), (1.6, 2.5, 1.9))
    found = Projector(Geometry.circular(flat, np.array([0.0])), slab).forward(np.full(slab.shape, 0.02, np.float32))
    rows, columns = np.meshgrid((np.arange(3) - 0.7) * 31.0, (np.arange(5) - 2.2) * 47.0, indexing="ij")
    expected = 0.2 * np.sqrt(949.0**2 + rows**2 + columns**2) / 949.0
    # The cell's mean instead of its middle: half a cell squared over six, (15.5² + 23.5²)/6/949² = 1.5e-4.
    np.testing.assert_allclose(found[0], expected, rtol=3e-4)


def test_subset_is_the_same_operator_for_those_views(operator: Projector, rng: np.random.Generator) -> None:
    image = rng.random(GRID.shape, dtype=np.float32)
    projections = rng.random(GEOMETRY.shape, dtype=np.float32)
    whole = operator.forward(image)
    for views in (slice(1, None, 2), [4, 0]):
        some = operator.subset(views)
        assert some.geometry.views == 2
        np.testing.assert_array_equal(some.forward(image), whole[views])
    parts = sum(operator.subset(slice(i, 5, 2)).adjoint(projections[i::2]) for i in (0, 1))
    np.testing.assert_allclose(parts, operator.adjoint(projections), rtol=0, atol=1e-6 * float(np.max(parts)))


def test_norm_is_the_largest_singular_value() -> None:
    """The matrix, column by column, and LAPACK's answer; from below, to the tolerance of the last step."""
    operator = Projector(GEOMETRY, Grid.centred((2, 3, 4), (3.7, 8.3, 9.1), (3.0, -2.0, 4.0)))
    basis = np.eye(24, dtype=np.float32).reshape(24, 2, 3, 4)
    matrix = np.stack([operator.forward(each).ravel() for each in basis], 1)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0]
    assert operator.norm(iterations=200, tolerance=1e-6) == pytest.approx(expected, rel=1e-4)
    assert operator.norm() <= expected * (1 + 1e-6)
    assert operator.norm() == operator.norm()


def test_norm_of_rays_that_miss_the_grid_is_zero() -> None:
    far = Grid.centred((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 400.0, 0.0))
    assert Projector(GEOMETRY, far).norm() == 0.0


def test_the_result_does_not_depend_on_threads(operator: Projector, rng: np.random.Generator) -> None:
    image, projections = rng.random(GRID.shape, dtype=np.float32), rng.random(GEOMETRY.shape, dtype=np.float32)
    many = operator.forward(image), operator.adjoint(projections)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(operator.forward(image), many[0])
        np.testing.assert_array_equal(operator.adjoint(projections), many[1])
    finally:
        numba.set_num_threads(before)


def test_projections_taken_in_parts_give_the_same_image(
    operator: Projector, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large scans are laid out anew a part at a time; here, two views at a time."""
    projections = rng.random(GEOMETRY.shape, dtype=np.float32)
    whole = operator.adjoint(projections)
    monkeypatch.setattr("lampyris.projector.cpu.CHUNK_BYTES", 2 * 4 * 17 * 16 + 1)
    np.testing.assert_allclose(operator.adjoint(projections), whole, rtol=0, atol=1e-6 * whole.max())


def test_what_does_not_fit_is_refused_with_both_shapes(operator: Projector) -> None:
    with pytest.raises(InputError, match=r"image .* shape \(7, 5, 6\), expected \(6, 5, 7\): axes swapped"):
        operator.forward(np.zeros((7, 5, 6), np.float32))
    with pytest.raises(InputError, match=r"projections .* shape \(4, 5, 17\), expected \(5, 4, 17\)"):
        operator.adjoint(np.zeros((4, 5, 17), np.float32))
    with pytest.raises(InputError, match=r"image: found float64 array, expected a float32 array"):
        operator.forward(np.zeros(GRID.shape))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"projections: found list, expected a float32 array"):
        operator.adjoint([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [(np.nan, 1e38), (np.inf, -np.inf), (-np.inf, np.nan)])
def test_a_value_that_is_no_number_is_refused_with_its_count(operator: Projector, bad: tuple[float, float]) -> None:
    image = np.ones(GRID.shape, np.float32)
    image[2, 3, 4], image[0, 0, 0] = bad
    image[1, 1, 1] = np.nan if bad[1] == 1e38 else 1.0
    with pytest.raises(InputError, match="image hold 2 NaN or infinite of 210 values"):
        operator.forward(image)


def test_views_of_other_layouts_are_taken_as_they_are(operator: Projector, rng: np.random.Generator) -> None:
    """A transposed or strided array is an array, too."""
    image = rng.random(GRID.shape, dtype=np.float32)
    projections = rng.random(GEOMETRY.shape, dtype=np.float32)
    np.testing.assert_array_equal(operator.forward(np.asfortranarray(image)), operator.forward(image))
    strided = np.repeat(projections, 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(operator.adjoint(strided), operator.adjoint(projections))


def test_cuda_is_never_replaced_by_something_else() -> None:
    with pytest.raises(EngineUnavailable, match="'cuda' cannot run"):
        Projector(GEOMETRY, GRID, engine="cuda")


class Elsewhere:
    """An array of ones on a card, as far as the operator looks at it before an engine does."""

    __cuda_array_interface__: ClassVar[dict[str, object]] = {}
    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def sum(self) -> float:
        return float(np.prod(self.shape))


@pytest.mark.parametrize(("shape", "direction"), [(GRID.shape, "forward"), (GEOMETRY.shape, "adjoint")])
def test_an_array_on_a_card_is_worked_on_there_or_refused(shape: tuple[int, ...], direction: str) -> None:
    """Never fetched unasked: another engine by name refuses it, and without a name the card's is asked: not here."""
    with pytest.raises(InputError, match=r"lie on a card, and the engine asked for is 'cpu': 'cuda' takes them there"):
        getattr(Projector(GEOMETRY, GRID, "cpu"), direction)(Elsewhere(shape))
    with pytest.raises(EngineUnavailable, match="'cuda' cannot run"):
        getattr(Projector(GEOMETRY, GRID), direction)(Elsewhere(shape))


OLDER = """
import sys, numpy as np
from test_projector_operator import rays_and_image
np.savez(sys.argv[1], **rays_and_image())
"""


def rays_and_image() -> dict[str, np.ndarray]:
    """Forward and adjoint of noise, for slices thinner and thicker than the rows."""
    rng = np.random.default_rng(7)
    found = {}
    for thickness in (0.3, 1.1, 6.0):
        grid = Grid.centred((40, 5, 7), (thickness, 8.3, 6.1), (3.0, -2.0, 4.0))
        operator = Projector(GEOMETRY, grid)
        found[f"forward {thickness}"] = operator.forward(rng.random(grid.shape, dtype=np.float32))
        found[f"adjoint {thickness}"] = operator.adjoint(rng.random(GEOMETRY.shape, dtype=np.float32))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["haswell", "nehalem"])
def test_every_instruction_set_gives_the_same_rays(processor: str, tmp_path: Path) -> None:
    """Compiled for an older processor: only the order of float32 sums may differ."""
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    where = Path(__file__).parent
    subprocess.run([sys.executable, "-c", OLDER, tmp_path / "older.npz"], check=True, env=environment, cwd=where)
    older = np.load(tmp_path / "older.npz")
    for name, here in rays_and_image().items():
        np.testing.assert_allclose(older[name], here, rtol=0, atol=2e-6 * float(here.max()))
