"""Plan and image → projections, and back, on a CUDA card: the footprint of `ray`, gathered; and voxel by voxel."""

from lampyris.projector.cuda.card import Card, card, down, room, to_kernels, up, xp
from lampyris.projector.cuda.pair import adjoint, forward
from lampyris.projector.cuda.voxels import VoxelSum

__all__ = ["Card", "VoxelSum", "adjoint", "card", "down", "forward", "room", "to_kernels", "up", "xp"]
