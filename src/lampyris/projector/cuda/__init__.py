"""Plan and image → projections, and back, on a CUDA card: the separable footprint of `ray`, gathered both ways."""

from lampyris.projector.cuda.card import Card, card
from lampyris.projector.cuda.pair import adjoint, forward

__all__ = ["Card", "adjoint", "card", "forward"]
