"""Images ↔ projections: line integrals and their exact transpose, and voxel-driven backprojection."""

from lampyris.projector.backprojection import Backprojector, backproject
from lampyris.projector.engine import Availability, Engine, available, card, load, named
from lampyris.projector.operator import Projector

__all__ = ["Availability", "Backprojector", "Engine", "Projector", "available", "backproject", "card", "load", "named"]
