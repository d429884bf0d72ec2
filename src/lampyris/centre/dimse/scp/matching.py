"""A query identifier and what might answer it → whether it matches, and the answer with what was asked for.

PS3.4 C.2.2.2: universal, single value, list of UIDs, wildcard, range and sequence matching. Names match in any case and
width, and in whichever group they are written; text is answered in the character set that its reader was said to have.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from lampyris.centre.archive.index import keys_of

_RANGED = frozenset({"DA", "TM", "DT"})
_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_CODECS = {"ISO_IR 100": "latin-1", "GBK": "gbk", "GB18030": "gb18030", "ISO_IR 192": "utf-8"}
_WIDER = {"ISO_IR 100": "ISO_IR 192", "GBK": "GB18030"}
"""What holds the text that a character set does not."""
ASIDE = frozenset({0x00080005, 0x00080052, 0x00080053, 0x00080201})
"""Of an identifier, what says how to read it, and asks nothing."""


def matches(query: Dataset, found: Dataset) -> bool:
    """Whether every key of a query matches; what is not known of `found` matches no value."""
    return all(_matches(element, found.get(element.tag)) for element in query if int(element.tag) not in ASIDE)


def answer(query: Dataset, found: Dataset, charset: str) -> Dataset:
    """What is known of the keys that were asked for, empty where nothing is, in a character set that holds it."""
    made = Dataset()
    for element in query:
        if int(element.tag) not in ASIDE and element.tag.element != 0:
            made[element.tag] = _answer(element, found.get(element.tag))
    made.SpecificCharacterSet = holding(made, charset)
    return made


def holding(dataset: Dataset, charset: str) -> str:
    """This character set if it holds all text of a dataset, else a wider one."""
    for text in _texts(dataset):
        while charset in _WIDER and not _fits(text, charset):
            charset = _WIDER[charset]
    return charset


def values_of(element: DataElement | None) -> list[str]:
    """The values of an element as text, without those that are empty."""
    value = None if element is None else element.value
    several = value if isinstance(value, (MultiValue, list, tuple)) else [] if value is None else [value]
    return [text for one in several if (text := str(one).strip(" \0"))]


def name_pattern(text: str) -> list[re.Pattern[str] | None]:
    """What the groups of a name must look like; one alone may be any of them, None is any name.

    >>> [bool(name_pattern("zhang*")[0].fullmatch(one)) for one in ("zhang^san", "li^si")]
    [True, False]
    """
    return [_pattern(group) if group.strip("*") else None for group in keys_of(text)]


def _matches(wanted: DataElement, found: DataElement | None) -> bool:
    if wanted.VR == "SQ":
        items = list(wanted.value or ())
        if not items or not any(True for _ in _asked(items[0])):
            return True
        return any(matches(items[0], one) for one in (found.value if found is not None else ()) or ())
    asked = values_of(wanted)
    if not asked or asked == ["*"]:
        return True
    return any(_value_matches(wanted.VR, one, values_of(found)) for one in asked)


def _asked(item: Dataset) -> Iterator[DataElement]:
    """Elements of a sequence's item that ask for a value."""
    for element in item:
        if element.VR == "SQ" or (values_of(element) and values_of(element) != ["*"]):
            yield element


def _value_matches(vr: str, wanted: str, found: list[str]) -> bool:
    if vr == "PN":
        return any(_name_matches(wanted, one) for one in found)
    if vr in _RANGED and "-" in wanted and not (vr == "DT" and re.fullmatch(r"[0-9.]+-[0-9]{4}", wanted)):
        first, _, last = wanted.partition("-")
        return any((not first or one >= first) and (not last or one[: len(last)] <= last) for one in found)
    if vr == "TM":
        return any(one.startswith(wanted) for one in found)
    if vr in _WILD and ("*" in wanted or "?" in wanted):
        pattern = _pattern(wanted)
        return any(pattern.fullmatch(one) for one in found)
    return wanted in found


def _name_matches(wanted: str, found: str) -> bool:
    patterns, groups = name_pattern(wanted), keys_of(found)
    if len(patterns) == 1:
        return patterns[0] is None or any(patterns[0].fullmatch(one) for one in groups)
    groups += [""] * (len(patterns) - len(groups))
    return all(one is None or one.fullmatch(group) for one, group in zip(patterns, groups, strict=False))


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in text), re.DOTALL)


def _answer(wanted: DataElement, found: DataElement | None) -> DataElement:
    if wanted.VR != "SQ":
        return DataElement(wanted.tag, wanted.VR, "" if found is None or found.value is None else found.value)
    asked = list(wanted.value or ())
    items = list(found.value or ()) if found is not None and found.VR == "SQ" else []
    if asked and len(asked[0]):
        kept = []
        for item in items:
            made = Dataset()
            for element in asked[0]:
                made[element.tag] = _answer(element, item.get(element.tag))
            kept.append(made)
        items = kept
    return DataElement(wanted.tag, "SQ", items)


def _fits(text: str, charset: str) -> bool:
    try:
        text.encode(_CODECS[charset])
    except UnicodeEncodeError:
        return False
    return True


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _texts(item)
        elif element.VR in _WILD:
            yield from values_of(element)
