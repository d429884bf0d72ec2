"""Scan id, recipe digest and role → DICOM UIDs that are the same whenever the same image is made again.

A UID is 2.25 followed by a UUID as a decimal integer (DICOM PS3.5 B.2); the UUID is the first 128 bits of the SHA-256
of the parts, with version and variant bits set as RFC 4122 asks. Making a series twice gives the same instances, so a
retry or a second delivery is recognised as a duplicate and not filed as a second examination.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass

from lampyris.model import InputError

IMPLEMENTATION_CLASS_UID = "2.25.222551928000855937160970452516959391040"
"""Constant of this software: `uid("lampyris", "implementation")`."""


def uid(*parts: str) -> str:
    """The UID that stands for these parts, in this order, at most 44 characters.

    >>> uid("scan", "study") == uid("scan", "study") != uid("scanstudy", "")
    True
    """
    text = json.dumps(["lampyris", *parts], ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


@dataclass(frozen=True, slots=True)
class SeriesIds:
    """The UIDs of one series; `instance(n)` of its n-th image."""

    study: str
    series: str
    frame_of_reference: str
    dimension_organization: str

    def instance(self, number: int) -> str:
        return uid(self.series, "instance", str(number))


def series_ids(
    scan_id: str, recipe_digest: str, role: str, *, study: str | None = None, frame_of_reference: str | None = None
) -> SeriesIds:
    """UIDs of the series that this recipe makes of this scan in this role.

    `role` tells apart what one scan and one recipe may give: software version, kind, quantity, series number.
    A study or frame of reference that is known is kept; otherwise it is derived from the scan alone, so that all
    series of a scan share it. InputError without a scan id: two scans would get the same UIDs.
    """
    if not scan_id:
        raise InputError("the scan has no id: deterministic UIDs need the digest of its content")
    series = uid(scan_id, recipe_digest, "series", role)
    return SeriesIds(
        study or uid(scan_id, "study"),
        series,
        frame_of_reference or uid(scan_id, "frame of reference"),
        uid(series, "dimension organization"),
    )
