"""A path → RawScan: which format it is, is decided by its content, never by its name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampyris.model import FormatError, InputError, RawScan
from lampyris.raw import container, ctpd, dxchange, nxtomo, xcist, xradia


@dataclass(frozen=True, slots=True)
class Format:
    """One format: how it is recognised, who reads it, which options that reader takes."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[..., RawScan]
    options: tuple[str, ...] = ()


FORMATS = (
    Format("Lampyris .lraw", container.recognises, container.read),
    Format("DICOM-CT-PD", ctpd.recognises, ctpd.read, ("spectrum", "spectrum_index")),
    Format("XCIST", xcist.recognises, xcist.read, ("tube_voltage_kv", "filtration", "bowtie", "spectrum")),
    Format("DXchange HDF5", dxchange.recognises, dxchange.read, ("central_column", "cell_mm")),
    Format("NeXus NXtomo", nxtomo.recognises, nxtomo.read, ("central_column", "cell_mm")),
    Format("Xradia txrm", xradia.recognises, xradia.read, ("central_column",)),
)


def read(path: str | os.PathLike[str], **options: Any) -> RawScan:
    """The raw scan at `path`, in whichever of `FORMATS` it is.

    Options: see the readers; one that the format found does not take is an InputError. Raises FormatError when nothing
    understands the path, and lists what would be.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"there is nothing at {place.name}: a typing error, or not yet transferred?")
    if _is_prep(place):
        raise FormatError(
            f"{place.name} is XCIST's .prep: logarithms whose negative values were clamped to 0, hence biased where"
            " there is air; give the folder with .scan, .air and .offset"
        )
    for each in FORMATS:
        if each.recognises(place):
            foreign = sorted(set(options) - set(each.options))
            if foreign:
                raise InputError(f"{', '.join(foreign)}: not an option of {each.name}, which takes {each.options}")
            return each.read(place, **options)
    raise FormatError(f"{place.name} is none of: {', '.join(each.name for each in FORMATS)}")


def _is_prep(place: Path) -> bool:
    """Headerless: its name is all there is to know it by."""
    if place.is_dir():
        return any(place.glob("*.prep")) and not any(place.glob("*.scan"))
    return place.suffix == ".prep"
