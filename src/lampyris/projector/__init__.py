"""Images ↔ projections: line integrals and their exact transpose, and voxel-driven backprojection."""

from lampyris.projector.backprojection import Backprojector, backproject
from lampyris.projector.engine import HOST, Availability, Engine, Memory, available, card, load, name_of, named
from lampyris.projector.operator import Projector

__all__ = [
    "HOST", "Availability", "Backprojector", "Engine", "Memory", "Projector", "available", "backproject", "card",
    "load", "name_of", "named",
]  # fmt: skip
