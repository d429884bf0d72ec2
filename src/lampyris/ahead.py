"""A scan that still arrives and a recipe → whatever its first views determine, on a shelf for the journey to come.

Nothing of this is a result: the stations of `path` make every image, of the whole scan, and take from the shelf what
they would make again bit for bit. Decision 0165 tells which stages can be made early, and why the others cannot.
"""

from collections.abc import Iterator

import numpy as np

from lampyris import correct, recon
from lampyris.model import Above, Float32, Projections, RawScan, Recipe, Shelf, Step

ENGINE = "cpu"
"""What slices are made on ahead of the scan's end: a card makes all of them in seconds when it is whole."""


def steps_of(recipe: Recipe) -> tuple[Step, ...]:
    """The corrections that are made of a scan before its first image."""
    return tuple(step for step in recipe.corrections if step.name != correct.BONE)


def image_shelf(shelf: Shelf, shape: tuple[int, int, int]) -> Shelf:
    """Where slices lie that are made of corrected views."""
    return Above(shelf, "image", lambda views: correct.made_of(shape, views))


def no_slices(scan: RawScan, recipe: Recipe, engine: str = ENGINE) -> str | None:
    """Why corrected views alone can be made early for that recipe and engine; None where slices can too."""
    if engine != ENGINE:
        return f"engine {engine!r} makes all slices when the scan is whole"
    steps = [step.name for step in recipe.corrections if step.name in correct.WHOLE_SCAN]
    if steps:
        return f"the correction {steps[0]!r} looks at the whole scan"
    return recon.why_not_ahead(scan.geometry, recipe.method, recipe.grid)


class Ahead:
    """The work on one arriving scan, whose images are to be computed by `engine`; what it has made so far stays in
    memory between calls."""

    def __init__(self, recipe: Recipe, shelf: Shelf, *, engine: str = ENGINE) -> None:
        self._recipe, self._shelf, self._engine = recipe, shelf, engine
        self._corrected = self._sliced = 0
        self._integrals: Float32 | None = None

    def go_on(self, scan: RawScan, views: int) -> Iterator[str]:
        """Make what the first `views` views of the scan determine; names each thing once it is on the shelf.

        `scan` has the header of all views; of its counts those are read. Raises what the stations raise.
        """
        slices = no_slices(scan, self._recipe, self._engine) is None
        if slices and self._integrals is None:
            self._integrals = np.full(scan.geometry.shape, np.nan, np.float32)
        blocks = correct.ahead(scan, steps_of(self._recipe), views, self._shelf, after=self._corrected, give=slices)
        for block in blocks:
            if self._integrals is not None and block.integrals is not None:
                self._integrals[block.first : block.last] = block.integrals
            self._corrected = block.last
            yield "correct"
        if slices and self._corrected:
            yield from self._slices(scan)

    def _slices(self, scan: RawScan) -> Iterator[str]:
        """The first image, and the one that tells its noise; a second pass (bone) needs the whole first."""
        recipe, geometry = self._recipe, scan.geometry
        how = (recipe.method, recipe.kernel, recipe.grid)
        shelf, views = image_shelf(self._shelf, geometry.shape), (self._sliced, self._corrected)
        for _ in recon.ahead(lambda: self._so_far(scan), geometry, how, views, shelf):
            yield "reconstruct"
        if recipe.passport.name == "half_scan" and len(steps_of(recipe)) == len(recipe.corrections):
            for _ in recon.noise_ahead(lambda: self._so_far(scan), geometry, how, views, shelf):
                yield "passport"
        self._sliced = self._corrected

    def _so_far(self, scan: RawScan) -> Projections:
        assert self._integrals is not None
        weights = np.broadcast_to(np.float32(1), self._integrals.shape)
        return Projections(self._integrals, weights, scan.geometry)
