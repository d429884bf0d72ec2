"""A path → RawScan: which format it is, is decided by its content, never by its name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampyris.model import FormatError, InputError, RawScan
from lampyris.raw import container, ctpd


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
)


def read(path: str | os.PathLike[str], **options: Any) -> RawScan:
    """The raw scan at `path`, in whichever of `FORMATS` it is.

    Options: see the readers; one that the format found does not take is an InputError. Raises FormatError when nothing
    understands the path, and lists what would be.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"there is nothing at {place.name}: a typing error, or not yet transferred?")
    for each in FORMATS:
        if each.recognises(place):
            foreign = sorted(set(options) - set(each.options))
            if foreign:
                raise InputError(f"{', '.join(foreign)}: not an option of {each.name}, which takes {each.options}")
            return each.read(place, **options)
    raise FormatError(f"{place.name} is none of: {', '.join(each.name for each in FORMATS)}")
