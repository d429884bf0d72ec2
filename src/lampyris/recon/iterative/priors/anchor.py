"""An image to stay near, and how surely → a prior: the data term of plug-and-play and of splitting methods."""

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from lampyris.model import InputError
from lampyris.recon.iterative.priors.neighbours import check


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """½ Σ r·(x − z)² with z = `image` and r = `precision`, both (slices, rows, columns), r ≥ 0; r may be a number.

    Its majoriser is the function itself and `prox` is exact. Raises InputError for NaN, a negative precision, or
    another shape.
    """

    image: Any
    precision: Any

    def __post_init__(self) -> None:
        check(self.image)
        if isinstance(self.precision, float | int):
            lowest, finite = float(self.precision), float(self.precision) < float("inf")
        else:
            check(self.precision, self.image)
            lowest, finite = float(array_namespace(self.precision).min(self.precision)), True
        if not (finite and lowest >= 0):
            raise InputError(f"precision of an anchor is {lowest:.4g} somewhere, expected finite and at least 0")

    def value(self, image: Any) -> float:
        check(image, self.image)
        xp = array_namespace(image)
        apart = image - self.image
        return 0.5 * float(xp.sum(self.precision * apart * apart, dtype=xp.float64))

    def gradient(self, image: Any) -> Any:
        check(image, self.image)
        return self.precision * (image - self.image)

    def curvature(self, image: Any) -> Any:
        check(image, self.image)
        return self.precision * array_namespace(image).ones_like(image)

    def majoriser(self, image: Any) -> tuple[Any, Any]:
        return self.gradient(image), self.curvature(image)

    def prox(self, image: Any, step: float) -> Any:
        """argmin over u of ½‖u − x‖² + step·R(u): (x + step·r·z)/(1 + step·r)."""
        check(image, self.image)
        pull = step * self.precision
        return (image + pull * self.image) / (1.0 + pull)
