"""Image (slices, rows, columns) in 1/mm → what it costs to be unlike an image: value, gradient and curvature."""

from lampyris.recon.iterative.priors.anchor import Anchor
from lampyris.recon.iterative.priors.choose import prior
from lampyris.recon.iterative.priors.neighbours import NeighbourPrior, Prior
from lampyris.recon.iterative.priors.variation import TotalVariation

__all__ = ["Anchor", "NeighbourPrior", "Prior", "TotalVariation", "prior"]
