"""An attribute and what it is to match → a condition on the index, by the rules that C-FIND and QIDO-RS share.

Sources: DICOM PS3.4 C.2.2.2 (single value, list of UIDs, universal, wild card, range and sequence matching), PS3.18
8.3.4 and 10.6. Names of persons match in any of their groups, without regard to case; everything else to the letter.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from lampyris.centre.archive.entry import is_uid
from lampyris.centre.archive.index import STUDY_TAGS, keys_of
from lampyris.centre.archive.queries import Condition
from lampyris.model import InputError


class Level(IntEnum):
    """What is searched for."""

    STUDY = 0
    SERIES = 1
    INSTANCE = 2


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute by the path of its tags: ("00100010",), or ("00400275", "00400009") within a sequence."""

    path: tuple[str, ...]

    @property
    def vr(self) -> str:
        return str(dictionary_VR(int(self.path[-1], 16)))

    @property
    def level(self) -> Level:
        """The level that it belongs to."""
        if self.path[0] in STUDY_TAGS or self.path[0] in _OF_STUDY:
            return Level.STUDY
        return Level.SERIES if self.path[0] in _SERIES_TAGS else Level.INSTANCE


_OF_STUDY = frozenset({"00080061", "00201206", "00201208"})
"""Told of a study as a whole: its modalities and counts."""
_SERIES_TAGS = frozenset({
    "00080021", "00080031", "00080060", "00080070", "00080080", "00080081", "00081010", "0008103E", "00081040",
    "00081050", "00081070", "00081090", "00081111", "00180015", "00181000", "00181020", "00181030", "00185100",
    "0020000E", "00200011", "00200052", "00200060", "00201209", "00400244", "00400245", "00400250", "00400251",
    "00400253", "00400254", "00400275",
})  # fmt: skip
"""Attributes of a series, as PS3.3 C.7.3.1, C.7.4.1 and C.7.5.1 place them, and its count."""

_TEXTS = frozenset({"AE", "AS", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
_MOMENTS = {
    "DA": re.compile(r"[0-9]{8}"),
    "TM": re.compile(r"[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?"),
    "DT": re.compile(r"[0-9]{4,14}(?:\.[0-9]{1,6})?"),
}
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_COLUMNS = {
    "0020000D": "study.uid", "00100020": "study.patient_id", "00100021": "study.issuer",
    "00100030": "study.birth_date", "00100040": "study.sex", "00080020": "study.study_date",
    "00080030": "study.study_time", "00080050": "study.accession", "00200010": "study.study_id",
    "00081030": "study.description", "0020000E": "series.uid", "00080060": "series.modality",
    "00200011": "series.series_number", "0008103E": "series.description", "00180015": "series.body_part",
    "00080018": "instance.uid", "00080016": "instance.class_uid", "00200013": "instance.instance_number",
    "00201206": "study.series_count", "00201208": "study.instance_count", "00201209": "series.instance_count",
    "00280008": "instance.frames",
}  # fmt: skip
_NAMES = {"00100010": "study.patient_keys", "00080090": "study.referring_keys"}
_UID_LIST = re.compile(r"[\\,]")
_LONGEST = 4096
"""Characters of a value; a list of some sixty UIDs."""


def attribute(text: str) -> Attribute:
    """An attribute as a query names it: keyword or eight hexadecimal digits, parted by "." within sequences.

    Raises InputError for one that DICOM does not know, or a sequence itself, which has no value to match.
    """
    path = []
    for part in text.split("."):
        tag = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else tag_for_keyword(part)
        try:
            vr = dictionary_VR(tag) if tag is not None else None
        except KeyError:
            vr = None
        if tag is None or vr is None:
            raise InputError(f"{part[:64]!a} is no attribute of DICOM: neither a keyword nor a public tag")
        path.append((f"{tag:08X}", vr))
    if any(vr != "SQ" for _, vr in path[:-1]) or len(path) > 4:
        raise InputError("only attributes within sequences have a name with dots, at most four deep")
    return Attribute(tuple(tag for tag, _ in path))


def matches(what: Attribute, value: str) -> Condition | None:
    """The condition that an attribute matches a value; None for universal matching, which everything fulfils.

    Raises InputError for a value that the attribute's VR does not allow, without quoting it.
    """
    value = value.strip(" ")
    if len(value) > _LONGEST or "\0" in value:
        raise InputError(f"a value to match has {len(value)} characters: at most {_LONGEST}, and no NUL")
    if value.strip("*") == "" and what.vr not in _MOMENTS:
        return None
    tag = what.path[0]
    if len(what.path) == 1:
        if tag in _NAMES:
            return _name(_NAMES[tag], value)
        if tag == "00080061":
            return _modalities(value)
        if tag in _COLUMNS:
            return _value(_COLUMNS[tag], what.vr, value)
    return _in_json(what, value)


def _value(place: str, vr: str, value: str) -> Condition:
    """A condition on one value of this VR; `place` is an expression of ours."""
    if vr == "UI":
        uids = [one for one in _UID_LIST.split(value) if one]
        if not uids or not all(is_uid(one) for one in uids):
            raise InputError("a value to match is no UID and no list of UIDs")
        return Condition(f"{place} = ANY(%s)", (uids,))
    if vr in _MOMENTS:
        return _range(place, vr, value)
    if vr in _NUMBERS:
        try:
            return Condition(f"{place} = %s::numeric", (str(float(value)),))
        except ValueError:
            raise InputError(f"a value to match is no number, as {vr} asks") from None
    if vr in _TEXTS or vr == "PN":
        several = [one for one in value.split("\\") if one]
        return _any(_text(place, one) for one in several)
    raise InputError(f"attributes of VR {vr} cannot be matched")


def _text(place: str, value: str) -> Condition:
    if "*" not in value and "?" not in value:
        return Condition(f"{place} = %s", (value,))
    return Condition(f"{place} LIKE %s", (_pattern(value),))


def _pattern(value: str) -> str:
    """A pattern of LIKE for a value with wild cards.

    >>> _pattern("a_1*?")
    'a\\\\_1%_'
    """
    escaped = re.sub(r"([\\%_])", r"\\\1", value)
    return escaped.replace("*", "%").replace("?", "_")


def _range(place: str, vr: str, value: str) -> Condition:
    """One moment, or all from one to another; a time that is told to the minute stands for all of that minute."""
    first, hyphen, last = value.partition("-")
    if not all(_MOMENTS[vr].fullmatch(one) for one in (first, last) if one) or not (first or last):
        raise InputError(f"a value to match is no {vr} and no range of two with a hyphen")
    if not hyphen:
        return Condition(f"{place} = %s", (first,)) if vr == "DA" else Condition(f"{place} LIKE %s", (first + "%",))
    wanted = [Condition(f"{place} <> ''")]
    if first:
        wanted.append(Condition(f"{place} >= %s", (first,)))
    if last:
        wanted.append(Condition(f"{place} <= %s", (last + "~",)))  # behind all digits
    return _together(wanted, " AND ")


def _name(place: str, value: str) -> Condition:
    """A name: every group that is told, in its place; a name without groups in any."""
    groups = keys_of(value)
    if len(groups) == 1:
        return _any(_text(f"{place}[{number}]", groups[0]) for number in (1, 2, 3))
    told = [_text(f"{place}[{number}]", group) for number, group in enumerate(groups[:3], start=1) if group.strip("*")]
    return _together(told, " AND ") if told else Condition("true")


def _modalities(value: str) -> Condition:
    several = [one for one in _UID_LIST.split(value) if one]
    if any("*" in one or "?" in one for one in several):
        wanted = _any(_text("modality", one) for one in several)
        return Condition(f"EXISTS (SELECT FROM unnest(modalities) AS modality WHERE {wanted.text})", wanted.values)
    return Condition("modalities && %s", (several,))


def _in_json(what: Attribute, value: str) -> Condition:
    """A condition on what has no column: on any value of the attribute, in any item of the sequences above it."""
    level, tag = what.level, what.path[0]
    place = {
        Level.STUDY: "study.json",
        Level.SERIES: "series.json",
        Level.INSTANCE: f"jsonb_build_object('{tag}', coalesce(instance.own -> '{tag}', series.json -> '{tag}'))",
    }[level]
    steps = "".join(f'."{one}".Value[*]' for one in what.path)
    if what.vr == "PN":
        wanted = _any(_text("lower(found #>> '{}')", group) for group in keys_of(value) if group)
        steps += ".*"
    elif what.vr in _NUMBERS:
        wanted = _value("CASE jsonb_typeof(found) WHEN 'number' THEN (found #>> '{}')::numeric END", what.vr, value)
    else:
        wanted = _value("(found #>> '{}')", what.vr, value)
    text = f"EXISTS (SELECT FROM jsonb_path_query({place}, '${steps}') AS found WHERE {wanted.text})"
    return Condition(text, wanted.values)


def _any(conditions: Any) -> Condition:
    return _together(list(conditions), " OR ")


def _together(conditions: list[Condition], word: str) -> Condition:
    text = word.join(one.text for one in conditions)
    return Condition(f"({text})", tuple(value for one in conditions for value in one.values))
