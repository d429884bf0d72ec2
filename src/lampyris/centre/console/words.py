"""A language → what the console says in it: texts of .po files, numbers, moments, bytes and durations.

Texts are English in the templates and in Python; `locale/LANGUAGE/PAGE.po` holds the others, one file a page, read as
they are. What Python only names, and a template translates later, is marked with `N_`.
"""

import gettext
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_datetime
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from babel.units import format_unit

LANGUAGES = {"en": "English", "zh_CN": "简体中文"}
"""What the console speaks: the first is the one of its source."""
_SOURCE = "en"
_LOCALES = {"en": "en_GB", "zh_CN": "zh_CN"}
"""Whose dates and numbers go with a language: day before month, 24 hours."""
_LARGE = (("digital-terabyte", 1e12), ("digital-gigabyte", 1e9), ("digital-megabyte", 1e6), ("digital-kilobyte", 1e3))
_LONG = (("duration-day", 86400), ("duration-hour", 3600), ("duration-minute", 60), ("duration-second", 1))


def N_(text: str) -> str:  # noqa: N802 - gettext's own name
    """Mark a text for translation; it is translated where it is shown."""
    return text


@dataclass(frozen=True, slots=True)
class Words:
    """A language of the console. Moments are told in the time zone of whoever reads."""

    language: str
    locale: Locale
    _texts: dict[str, tuple[str, ...]] = field(repr=False)
    _form_of: Callable[[int], int] = field(repr=False)

    @property
    def tag(self) -> str:
        """The language as HTML names it (BCP 47)."""
        return "zh-Hans" if self.language == "zh_CN" else self.language

    def gettext(self, text: str) -> str:
        """A text in this language; as it is where there is none."""
        return self._texts.get(text, (text,))[0]

    def ngettext(self, one: str, many: str, count: int) -> str:
        """The form of a text that goes with a count."""
        if one not in self._texts:
            return one if count == 1 else many
        return self._texts[one][self._form_of(count)]

    def number(self, value: float | None, digits: int | None = None) -> str:
        """A number; with so many digits after its point, if they are given. A dash for None."""
        if value is None:
            return "–"
        form = None if digits is None else "#,##0" + ("." + "0" * digits if digits else "")
        return format_decimal(value, format=form, locale=self.locale)

    def percent(self, fraction: float) -> str:
        return format_percent(fraction, locale=self.locale)

    def bytes(self, count: float | None) -> str:
        """So many bytes in the unit that keeps the number short, in powers of 1000. A dash for None."""
        if count is None:
            return "–"
        for unit, size in _LARGE:
            if count >= size:
                shown = count / size
                form = "#,##0.0" if shown < 10 else "#,##0"
                return format_unit(shown, unit, "short", format=form, locale=self.locale)
        return format_unit(int(count), "digital-byte", "short", locale=self.locale)

    def duration(self, seconds: float | None) -> str:
        """A duration in its largest unit, and the next where there are fewer than five of it. A dash for None."""
        if seconds is None:
            return "–"
        left, said = max(int(seconds), 0), list[tuple[str, int]]()
        for unit, size in _LONG:
            count, left = divmod(left, size)
            if count or said:
                said.append((unit, count))
            if len(said) == 2 or (said and said[0][1] >= 5):
                break
        shown = [format_unit(count, unit, "short", locale=self.locale) for unit, count in said if count]
        return " ".join(shown) or format_unit(0, "duration-second", "short", locale=self.locale)

    def moment(self, when: datetime | None, zone: tzinfo = UTC, form: str = "medium") -> str:
        """A moment in a time zone; `form` as Babel names them: short, medium, long. A dash for None."""
        return "–" if when is None else format_datetime(when, form, tzinfo=zone, locale=self.locale)


@cache
def words_of(language: str) -> Words:
    """What is said in one of LANGUAGES; KeyError for another."""
    if language not in LANGUAGES:
        raise KeyError(language)
    locale, texts = Locale.parse(_LOCALES[language]), {}
    form_of: Callable[[int], int] = gettext.c2py("n != 1")
    if language != _SOURCE:
        for each in sorted((files(__package__) / "locale" / language).iterdir(), key=lambda one: one.name):
            with each.open("rb") as file:
                catalog = read_po(file, locale=language)
            form_of = gettext.c2py(catalog.plural_expr)
            texts.update({_key(message.id): _forms(message.string) for message in catalog if message.id})
    return Words(language, locale, texts, form_of)


def chosen(*wishes: str | None, accept: str = "") -> str:
    """The first of the wishes that we speak, else the best of an Accept-Language header, else English."""
    for wish in (*wishes, *_accepted(accept)):
        if wish is None:
            continue
        if wish in LANGUAGES:
            return wish
        spoken = wish.replace("_", "-").partition("-")[0].lower()
        for language in LANGUAGES:
            if language.partition("_")[0] == spoken:
                return language
    return _SOURCE


def zone_of(name: str | None) -> tzinfo:
    """The time zone of that name of the IANA's data base, UTC for any other text."""
    if not name or len(name) > 64:
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def _accepted(header: str) -> list[str]:
    """Languages of an Accept-Language header, the dearest first (RFC 9110 12.5.4)."""
    found: list[tuple[float, str]] = []
    for each in header.split(",")[:32]:
        tag, _, weight = each.partition(";")
        try:
            dear = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if tag.strip() and dear > 0:
            found.append((-dear, tag.strip()))
    return [tag for _, tag in sorted(found, key=lambda one: one[0])]


def _key(identifier: Any) -> str:
    return str(identifier[0] if isinstance(identifier, (tuple, list)) else identifier)


def _forms(text: Any) -> tuple[str, ...]:
    return tuple(text) if isinstance(text, (tuple, list)) else (text,)
