"""Names and values → the content items of a structured report, PS3.3 C.17.3 (SR Document Content)."""

import math
from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import DSfloat

from lampyris.dicom.header import code, item, put

Code: TypeAlias = tuple[str, str, str]
"""Code value, coding scheme, meaning."""

DCM, SCT, UCUM = "DCM", "SCT", "UCUM"

CONTAINS = "CONTAINS"
PROPERTIES = "HAS PROPERTIES"
OBSERVATION = "HAS OBS CONTEXT"
MODIFIER = "HAS CONCEPT MOD"

UNKNOWN: Code = ("114010", DCM, "Value unknown")
"""Why a number is not there, CID 42."""


def dcm(value: str, meaning: str) -> Code:
    return value, DCM, meaning


def _made(kind: str, name: Code, relation: str | None, below: Iterable[Dataset]) -> Dataset:
    made = Dataset()
    if relation is not None:
        made.RelationshipType = relation
    made.ValueType = kind
    made.ConceptNameCodeSequence = code(*name)
    children = list(below)
    if children:
        made.ContentSequence = Sequence(children)
    return made


def container(name: Code, below: Iterable[Dataset], template: str | None = None, relation: str = CONTAINS) -> Dataset:
    """A heading; a root has a template and no relationship."""
    made = _made("CONTAINER", name, None if template else relation, below)
    made.ContinuityOfContent = "SEPARATE"
    if template is not None:
        made.ContentTemplateSequence = Sequence([item({"MappingResource": "DCMR", "TemplateIdentifier": template})])
    return made


def coded(name: Code, value: Code, relation: str = CONTAINS, below: Iterable[Dataset] = ()) -> Dataset:
    made = _made("CODE", name, relation, below)
    made.ConceptCodeSequence = code(*value)
    return made


def text(name: Code, value: str, relation: str = CONTAINS) -> Dataset:
    made = _made("TEXT", name, relation, ())
    put(made, "TextValue", value)
    return made


def reference(name: Code, uid: str, relation: str = CONTAINS) -> Dataset:
    """A UIDREF."""
    made = _made("UIDREF", name, relation, ())
    made.UID = uid
    return made


def moment(name: Code, value: datetime | str, relation: str = CONTAINS) -> Dataset:
    """A DATETIME, of a moment or as DICOM writes it."""
    made = _made("DATETIME", name, relation, ())
    put(made, "DateTime", value if isinstance(value, str) else value.strftime("%Y%m%d%H%M%S.%f%z"))
    return made


def number(
    name: Code, value: float | None, unit: tuple[str, str], below: Iterable[Dataset] = (), relation: str = CONTAINS
) -> Dataset:
    """A NUM with its UCUM unit and the unit's meaning; one that is not known has no value, and says so (CID 42)."""
    made = _made("NUM", name, relation, below)
    if value is None or not math.isfinite(value):
        made.MeasuredValueSequence = Sequence()
        made.NumericValueQualifierCodeSequence = code(*UNKNOWN)
        return made
    measured = Dataset()
    measured.NumericValue = DSfloat(f"{value:.6g}")
    measured.MeasurementUnitsCodeSequence = code(unit[0], UCUM, unit[1])
    made.MeasuredValueSequence = Sequence([measured])
    return made
