"""On a CUDA card: plan and image → projections, and back, by the footprint of `ray`; voxels, rebinning, helices."""

from lampyris.projector.cuda import rebin
from lampyris.projector.cuda.card import card, device, down, room, to_kernels, up, wait, xp
from lampyris.projector.cuda.helical import ConeParallelViews
from lampyris.projector.cuda.memory import in_parts, refused, release
from lampyris.projector.cuda.pair import adjoint, forward
from lampyris.projector.cuda.stream import pieces
from lampyris.projector.cuda.voxels import VoxelSum
from lampyris.projector.engine import Card

__all__ = [
    "Card", "ConeParallelViews", "VoxelSum", "adjoint", "card", "device", "down", "forward", "in_parts", "pieces",
    "rebin", "refused", "release", "room", "to_kernels", "up", "wait", "xp",
]  # fmt: skip
