"""Dimensions → phantoms of quality control: water cylinders and the image-quality phantom.

Both lie along the rotation axis. Inserts of water at another density have the same HU in every beam; those of other
materials what `physics.detector.hounsfield` says for the beam.
"""

import numpy as np

from lampyris.model import InputError
from lampyris.phantom.assembly import Insert, Part, Phantom
from lampyris.phantom.shapes import Cylinder
from lampyris.phantom.thorax import thorax

__all__ = ["image_quality", "thorax", "water_cylinder"]


def water_cylinder(
    diameter_mm: float = 200.0, length_mm: float = 100.0, centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Phantom:
    """Water along the rotation axis, without a wall, with a central and four edge regions to be measured."""
    if diameter_mm <= 40 or length_mm <= 0:
        raise InputError(
            f"water cylinder of {diameter_mm} × {length_mm} mm: expected a diameter above 40 mm, length > 0"
        )
    x, y, z = centre_mm
    out = diameter_mm / 2 - 20.0
    spots = {"centre": (x, z), "right": (x + out, z), "left": (x - out, z), "top": (x, z + out), "bottom": (x, z - out)}
    inserts = tuple(Insert(f"water {name}", (a, y, b), 10.0, "water") for name, (a, b) in spots.items())
    radii = (diameter_mm / 2, diameter_mm / 2)
    return Phantom((Part(Cylinder(centre_mm, radii, length_mm), "water"),), inserts, f"water {diameter_mm:g} mm")


RODS = (
    ("air", "air"),
    ("polyethylene", "polyethylene"),
    ("acrylic", "pmma"),
    ("+1000 HU", "water*2.0"),
    ("-900 HU", "water*0.1"),
    ("teflon", "teflon"),
    ("+300 HU", "water*1.3"),
    ("bone", "cortical_bone"),
)
"""Insert name and material of the large rods of the sensitometry section, from 3 o'clock on, 45° apart."""
ROD_RADIUS_MM = 12.5
RING_MM = 60.0
CONTRASTS_HU = (20, 10, 5)
DIAMETERS_MM = (15.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0)
CONTRAST_RING_MM = 50.0


def image_quality(diameter_mm: float = 200.0) -> Phantom:
    """A water cylinder of three sections along y, 120 mm long in all: −60…−20 sensitometry, −20…20 low contrast and
    wire, 20…60 uniform.

    Sensitometry: rods of 25 mm on a ring of 60 mm radius, see `RODS`. Low contrast: for each of 20, 10 and
    5 HU nine rods of 15 to 2 mm on a third of a ring of 50 mm; a tungsten wire of 0.1 mm at (0, 20) mm, parallel
    to the axis. Uniform: central and edge regions.
    """
    if diameter_mm < 160:
        raise InputError(f"image-quality phantom of {diameter_mm} mm: the inserts need 160 mm or more")
    parts = [Part(Cylinder((0, 0, 0), (diameter_mm / 2, diameter_mm / 2), 120.0), "water")]
    inserts = []
    for k, (name, material) in enumerate(RODS):
        angle = 2 * np.pi * k / len(RODS)
        centre = (float(RING_MM * np.cos(angle)), -40.0, float(RING_MM * np.sin(angle)))
        parts.append(Part(Cylinder(centre, (ROD_RADIUS_MM, ROD_RADIUS_MM), 40.0), material, "water"))
        inserts.append(Insert(name, centre, ROD_RADIUS_MM, material))
    for k, contrast in enumerate(CONTRASTS_HU):
        third = 2 * np.pi / len(CONTRASTS_HU)
        gap_mm = (third * CONTRAST_RING_MM - sum(DIAMETERS_MM)) / len(DIAMETERS_MM)
        ends_mm = np.cumsum(DIAMETERS_MM) + gap_mm * np.arange(1, len(DIAMETERS_MM) + 1)
        for size, end_mm in zip(DIAMETERS_MM, ends_mm, strict=True):
            angle = third * k + (end_mm - (size + gap_mm) / 2) / CONTRAST_RING_MM
            centre = (float(CONTRAST_RING_MM * np.cos(angle)), 0.0, float(CONTRAST_RING_MM * np.sin(angle)))
            material = f"water*{1 + contrast / 1000:g}"
            parts.append(Part(Cylinder(centre, (size / 2, size / 2), 40.0), material, "water"))
            inserts.append(Insert(f"low contrast {contrast} HU {size:g} mm", centre, size / 2, material))
    parts.append(Part(Cylinder((0.0, 0.0, 20.0), (0.05, 0.05), 40.0), "tungsten", "water"))
    inserts.append(Insert("wire", (0.0, 0.0, 20.0), 0.05, "tungsten"))
    inserts.append(Insert("background", (0.0, -40.0, 0.0), 20.0, "water"))
    inserts.append(Insert("low contrast background", (0.0, 0.0, -15.0), 15.0, "water"))
    edge = diameter_mm / 2 - 20.0
    spots = {
        "centre": (0.0, 0.0),
        "right": (edge, 0.0),
        "left": (-edge, 0.0),
        "top": (0.0, edge),
        "bottom": (0.0, -edge),
    }
    inserts += [Insert(f"water {name}", (x, 40.0, z), 12.5, "water") for name, (x, z) in spots.items()]
    return Phantom(tuple(parts), tuple(inserts), f"image quality {diameter_mm:g} mm")
