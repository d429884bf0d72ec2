"""HU image and the scanner's CTDIvol → water-equivalent diameter, SSDE, DLP and effective dose, with their origin."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from lampyris.model import Bool, Figure, Float64, InputError, Origin, Volume
from lampyris.quality.regions import SLAB, Coarse

GROWN_MM = 4.0
"""The body is widened by this much, so that pixels half filled by skin count: air around it adds nothing."""


@cache
def tables() -> dict[str, Any]:
    """Coefficients with source, edition and who checked them."""
    data: dict[str, Any] = json.loads(files("lampyris.quality").joinpath("dose.json").read_text("utf-8"))
    return data


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """Per slice, (slices,): water-equivalent diameter in mm (0 where there is no body) and the cut part of the outline.

    `truncated` is the fraction of the body's outline that lies on the border of the field of view.
    """

    water_equivalent_mm: Float64
    truncated: Float64

    @property
    def occupied(self) -> Bool:
        """Slices with a body in them."""
        return np.asarray(self.water_equivalent_mm > 0, np.bool_)

    @property
    def mean_mm(self) -> float:
        """Mean over the slices that hold a body. Raises InputError when none does."""
        if not self.occupied.any():
            raise InputError("no body was found in the image: nothing denser than −500 HU of any size")
        return float(self.water_equivalent_mm[self.occupied].mean())


def water_equivalent_diameter(volume: Volume, blocks: Coarse, inside: Bool) -> Size:
    """D_w = 2 √((mean HU/1000 + 1)·A/π) over the body in each slice (AAPM Report 220, 2014, eq. 3).

    `inside` (slices, block rows, block columns) is the body's mask from `regions.body`. Pixels never measured count as
    air, NaN too. A truncated body gives too small a diameter; the report asks to say so, see `Size.truncated`.
    """
    if volume.quantity != "HU":
        raise InputError(f"water-equivalent diameter needs HU, the image is in {volume.quantity}")
    wide = _grown(inside, round(GROWN_MM / min(blocks.spacing_mm[1:])))
    pixel_mm2 = volume.grid.spacing_mm[1] * volume.grid.spacing_mm[2]
    area = np.zeros(volume.grid.shape[0])
    for start in range(0, len(area), SLAB):
        slab = slice(start, min(start + SLAB, len(area)))
        known = np.isfinite(volume.values[slab])
        if volume.valid is not None:
            known &= volume.valid[slab]
        # No clipping at −1000 HU: noise and undershoot at the skin must be free to cancel.
        water = np.where(known & blocks.spread(wide, slab), volume.values[slab] / np.float32(1000) + 1, np.float32(0))
        area[slab] = water.sum(axis=(1, 2), dtype=np.float64) * pixel_mm2
    return Size(2 * np.sqrt(np.maximum(area, 0) / np.pi) * inside.any(axis=(1, 2)), truncation(inside, blocks, volume))


def truncation(inside: Bool, blocks: Coarse, volume: Volume) -> Float64:
    """(slices,) fraction of the body's outline on the border of the image or of what was measured."""
    seen = np.ones(inside.shape, np.bool_)
    if volume.valid is not None:
        rows, columns = inside.shape[1:]
        for index, valid in enumerate(volume.valid):
            part = valid[: rows * blocks.block, : columns * blocks.block]
            seen[index] = part.reshape(rows, blocks.block, columns, blocks.block).all(axis=(1, 3))
    padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    measured = np.pad(seen, ((0, 0), (1, 1), (1, 1)))
    outline, cut = np.zeros(len(inside)), np.zeros(len(inside))
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        edge = padded & ~np.roll(padded, step, axis)
        outline += edge.sum(axis=(1, 2))
        cut += (edge & ~np.roll(measured, step, axis)).sum(axis=(1, 2))
    return np.asarray(cut / np.maximum(outline, 1), np.float64)


def size_factor(water_equivalent_cm: float, *, phantom_mm: float, head: bool = False) -> float:
    """f of SSDE = f·CTDIvol: a·exp(−b·D_w), AAPM Report 204 (body, 32 or 16 cm phantom) and 293 (head, 16 cm).

    >>> round(size_factor(30.0, phantom_mm=320), 3)
    1.231
    """
    name = f"{'head' if head else 'body'}_{phantom_mm:.0f}"
    if name not in tables()["ssde"]:
        raise InputError(
            f"no SSDE factors for the {'head' if head else 'body'} and a CTDI phantom of {phantom_mm} mm;"
            f" there are {', '.join(tables()['ssde'])}"
        )
    table = tables()["ssde"][name]
    if not table["from_cm"] <= water_equivalent_cm <= table["to_cm"]:
        raise InputError(
            f"a water-equivalent diameter of {water_equivalent_cm:.1f} cm lies outside"
            f" {table['from_cm']}…{table['to_cm']} cm, where the factors of {name} are known"
        )
    return float(table["a"] * np.exp(-table["b"] * water_equivalent_cm))


def region(BodyPartExamined: str | None) -> str | None:
    """Head, neck, chest, abdomen or pelvis for a DICOM (0018,0015) value; None when it is none of these."""
    if BodyPartExamined is None:
        return None
    found = tables()["body_parts"].get(BodyPartExamined.strip().upper())
    return None if found is None else str(found)


def effective_dose_msv(dlp_mgy_cm: float, part: str, *, phantom_mm: float) -> float:
    """Adult effective dose k·DLP, ICRP 103, for head, neck, chest, abdomen or pelvis.

    Raises InputError for another region, and where CTDIvol is told for another phantom than k assumes.
    """
    table = tables()["effective_dose"]
    if part not in table["adult"]:
        raise InputError(f"no effective-dose coefficient for {part!r}; there are {', '.join(table['adult'])}")
    if table["phantom_mm"][part] != phantom_mm:
        raise InputError(
            f"the coefficient for the {part} assumes a CTDI phantom of {table['phantom_mm'][part]} mm,"
            f" this CTDIvol is for {phantom_mm:g} mm"
        )
    return float(table["adult"][part] * dlp_mgy_cm)


def dlp_for_16_cm(dlp_32_cm: float) -> float:
    """A body DLP told for the 32 cm phantom as one for the 16 cm phantom, which paediatric coefficients assume."""
    return float(dlp_32_cm * tables()["effective_dose"]["body_16_over_32"]["value"])


@dataclass(frozen=True, slots=True)
class Output:
    """What the scanner says of its radiation: CTDIvol, its phantom's diameter (None: not told), and who computed it.

    `scanned_mm` is the scanning length of IEC 60601-2-44 and DICOM TID 10014: the table's travel while the tube was
    loaded, or the total collimation where the table stood still; None where it is not known.
    """

    ctdivol_mgy: float
    phantom_mm: float | None
    part: str | None
    origin: Origin = "reported"
    scanned_mm: float | None = None


def figures(output: Output, size: Size, slice_mm: float) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """CTDIvol, DLP, SSDE and effective dose as figures, and why those that are missing are.

    DLP is CTDIvol × the scanning length; where that is not known, × the length that the images cover: over-ranging of a
    helix is not in it, hence "estimated". SSDE is the mean over the slices with a body of f(D_w)·CTDIvol (AAPM
    Report 220).
    """
    covered_cm = len(size.water_equivalent_mm) * slice_mm / 10
    known = output.scanned_mm is not None
    length_cm = output.scanned_mm / 10 if output.scanned_mm is not None else covered_cm
    dlp = output.ctdivol_mgy * length_cm
    head = output.part == "head"
    phantom = ("phantom_mm", output.phantom_mm)
    found = [
        Figure("ctdivol", output.ctdivol_mgy, "mGy", output.origin, (phantom,)),
        Figure(
            "dlp",
            dlp,
            "mGy·cm",
            "computed" if known else "estimated",
            tuple(
                sorted(
                    (
                        ("over_ranging", "included" if known else "not included"),
                        ("scanned_cm" if known else "covered_cm", round(length_cm, 3)),
                    )
                )
            ),
        ),
    ]
    missing = []
    settings: tuple[tuple[str, Any], ...]
    if output.phantom_mm is None:
        why = "the diameter of the phantom that CTDIvol is for is not told"
        return tuple(found), tuple(f"not measured: {name}: {why}" for name in ("ssde", "effective_dose"))
    try:
        diameters = size.water_equivalent_mm[size.occupied] / 10
        if not len(diameters):
            raise InputError("no body was found in the image")
        factors = [size_factor(float(each), phantom_mm=output.phantom_mm, head=head) for each in diameters]
        settings = (("factors", "TG-293" if head else "TG-204/220"), phantom, ("slices", len(factors)))
        found.append(Figure("ssde", output.ctdivol_mgy * float(np.mean(factors)), "mGy", "estimated", settings))
    except InputError as error:
        missing.append(f"not measured: ssde: {error}")
    try:
        if output.part is None:
            raise InputError("the body part is not told or none of head, neck, chest, abdomen, pelvis")
        dose = effective_dose_msv(dlp, output.part, phantom_mm=output.phantom_mm)
        settings = (("coefficients", "ICRP 103, adult"), ("region", output.part))
        found.append(Figure("effective_dose", dose, "mSv", "estimated", settings))
    except InputError as error:
        missing.append(f"not measured: effective_dose: {error}")
    return tuple(found), tuple(missing)


def _grown(mask: Bool, blocks: int) -> Bool:
    grown = mask.copy()
    for _ in range(max(1, blocks)):
        wider = grown.copy()
        wider[:, 1:] |= grown[:, :-1]
        wider[:, :-1] |= grown[:, 1:]
        wider[:, :, 1:] |= grown[:, :, :-1]
        wider[:, :, :-1] |= grown[:, :, 1:]
        grown = wider
    return grown
