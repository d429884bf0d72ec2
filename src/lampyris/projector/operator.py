"""Geometry and grid → the linear operator between them: line integrals, and their exact transpose."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from lampyris.model import Geometry, Grid, InputError
from lampyris.projector import engine as engines
from lampyris.projector.plan import Plan


class Projector:
    """Line integrals of images on `grid` along the rays of `geometry`, averaged over each detector cell.

    A matrix in all but storage, with the separable footprint of Long, Fessler and Balter (2010, IEEE TMI 29:1839):
    `forward` is A, `adjoint` is Aᵀ with the very same weights. Parallel, fan and cone beams, circular or helical,
    flat or curved detectors, flying focal spots, any motion from view to view; detector rows must run along the
    grid's slices.

    >>> import numpy as np
    >>> from lampyris.model import Geometry, Grid
    >>> beam = Geometry.parallel_beam(np.array([0.0]), rows=3, columns=5, cell_mm=(2.0, 1.0))
    >>> slab = np.full((4, 6, 9), 0.02, np.float32)  # 6 rows of 1.5 mm: 9 mm along the ray
    >>> operator = Projector(beam, Grid.centred((4, 6, 9), (2.0, 1.5, 1.0)), engine="reference")
    >>> round(float(operator.forward(slab)[0, 1, 2]), 6)
    0.18
    """

    def __init__(self, geometry: Geometry, grid: Grid, engine: str | engines.Engine | None = None) -> None:
        """`engine` None takes the one of where the data lie: NumPy's arrays on "cpu", those on a card on "cuda".

        Raises GeometryError where the rays cannot be walked on this grid, EngineUnavailable, InputError.
        """
        self.geometry = geometry
        self.grid = grid
        self.engine = engines.load(engine) if isinstance(engine, str) else engine
        self._plan = Plan.of(geometry, grid)

    def forward(self, image: Any) -> Any:
        """Line integrals (views, rows, columns) of an image (slices, rows, columns), in its unit times mm.

        Those of an array on a card stay on the card. Raises InputError for another shape or type than float32, NaN, or
        an array on a card where another engine was asked for.
        """
        return self._engine_for(image, self.grid.shape, "image").forward(self._plan, image)

    def adjoint(self, projections: Any) -> Any:
        """Aᵀ: projections (views, rows, columns) → image (slices, rows, columns), of the same kind.

        Raises InputError as `forward`.
        """
        return self._engine_for(projections, self.geometry.shape, "projections").adjoint(self._plan, projections)

    def subset(self, views: slice | Sequence[int]) -> "Projector":
        """The same operator for some of its views, in that order."""
        return Projector(self.geometry.subset(views), self.grid, self.engine)

    def _engine_for(self, array: Any, shape: tuple[int, int, int], name: str) -> engines.Engine:
        """The engine, once the array is one that it takes."""
        _check(array, shape, name)
        if self.engine is None:
            return engines.load(engines.name_of(array))
        if engines.name_of(array) == "cuda" and self.engine.name != "cuda":
            raise InputError(
                f"{name} lie on a card, and the engine asked for is {self.engine.name!r}: 'cuda' takes them there, or"
                " bring them down first"
            )
        return self.engine

    def norm(self, *, iterations: int = 20, tolerance: float = 1e-3) -> float:
        """Largest singular value of A, mm, from below, by power iteration on AᵀA.

        The matrix has no negative entry, so its leading singular vector has none either (Perron–Frobenius) and a
        constant image is a start that cannot be orthogonal to it. Stops when a step gains less than `tolerance`,
        relative, or after `iterations`.
        """
        memory = engines.HOST if self.engine is None else self.engine.memory
        image = memory.xp.ones(self.grid.shape, dtype=memory.xp.float32)
        norm = 0.0
        for _ in range(iterations):
            image /= _length(image)
            projections = self.forward(image)
            before, norm = norm, _length(projections)
            if norm == 0.0 or norm - before < tolerance * norm:
                break
            image = self.adjoint(projections)
        return norm


def _length(array: Any) -> float:
    xp = array_namespace(array)
    return math.sqrt(float(xp.sum(array * array, dtype=xp.float64)))


def _check(array: Any, shape: tuple[int, int, int], name: str) -> None:
    """Refuse what the engine must not be given."""
    known = isinstance(array, np.ndarray) or engines.name_of(array) == "cuda"
    if not known or array.dtype != np.float32:
        found = f"{array.dtype} array" if known else type(array).__name__
        raise InputError(f"{name}: found {found}, expected a float32 array; .astype(np.float32) first")
    if tuple(array.shape) != shape:
        raise InputError(f"{name} have shape {array.shape}, expected {shape}: axes swapped, or another scan's?")
    with np.errstate(invalid="ignore", over="ignore"):
        total = float(array.sum())  # not finite where any value is not; no array of answers
    if not math.isfinite(total):
        bad = int(array.size - array_namespace(array).isfinite(array).sum())
        if bad:
            raise InputError(f"{name} hold {bad} NaN or infinite of {array.size} values: a 0/0 upstream?")
