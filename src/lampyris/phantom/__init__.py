"""Shapes with closed-form line integrals, and bodies made of them."""

from lampyris.phantom.assembly import (
    Insert,
    Part,
    Phantom,
    Tracer,
    line_integrals,
    path_lengths_mm,
    voxelise,
)
from lampyris.phantom.bodies import image_quality, water_cylinder
from lampyris.phantom.shapes import Box, Clipped, Cone, Cylinder, Ellipsoid, Gaussian, HalfSpace, Shape
from lampyris.phantom.thorax import thorax

__all__ = [
    "Box", "Clipped", "Cone", "Cylinder", "Ellipsoid", "Gaussian", "HalfSpace", "Insert", "Part", "Phantom", "Shape",
    "Tracer", "image_quality", "line_integrals", "path_lengths_mm", "thorax", "voxelise", "water_cylinder",
]  # fmt: skip
