"""Bytes of a stranger → checked JSON values, or an InputError that names the field and never its content.

A field may hold what must not stand in a log, so a message says what was expected and how long the value was.
"""

import json
import re
from typing import Any, TypeVar

from lampyris.model import InputError


class ManifestError(InputError):
    """A manifest, or another body of the transfer protocol, is not what the protocol says."""

    code = "INPUT_MANIFEST"


T = TypeVar("T")


def parse_object(data: bytes, *, largest: int, what: str) -> dict[str, Any]:
    """One JSON object in UTF-8, without repeated names, NaN or infinity; ManifestError otherwise."""
    if len(data) > largest:
        raise ManifestError(f"{what} is {len(data)} bytes, at most {largest} are allowed")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ManifestError:
        raise
    except (ValueError, RecursionError) as error:
        kind = type(error).__name__
        raise ManifestError(f"{what} is no JSON text in UTF-8 ({kind}): cut off, or another encoding?") from error
    if not isinstance(found, dict):
        raise ManifestError(f"{what} is a JSON {type(found).__name__}, expected an object")
    return found


class Fields:
    """The entries of one object, each taken once and checked; `end` refuses what nobody took."""

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, dict):
            raise ManifestError(f"{what} is a {type(values).__name__}, expected an object")
        self._left = dict(values)
        self._what = what

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        """A string that the pattern matches from end to end."""
        value = self._take(name, str)
        if not pattern.fullmatch(value):
            raise ManifestError(
                f"{self._what}: {name} of {len(value)} characters does not have the form {pattern.pattern}"
            )
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self._take(name, str)
        if value not in allowed:
            raise ManifestError(f"{self._what}: {name} is not one of {', '.join(allowed)}")
        return value

    def number(self, name: str, low: int, high: int) -> int:
        """A whole number, low ≤ value ≤ high."""
        value = self._take(name, int)
        if isinstance(value, bool) or not low <= value <= high:
            raise ManifestError(f"{self._what}: {name} is not a whole number from {low} to {high}")
        return value

    def real(self, name: str) -> float:
        """A number, whole or not; how large it may be is for others to say."""
        value: object = self._take(name, object)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ManifestError(f"{self._what}: {name} is a {type(value).__name__}, expected a number")
        return float(value) if abs(value) < 1e300 else 1e300

    def list(self, name: str, longest: int) -> list[Any]:
        value = self._take(name, list)
        if len(value) > longest:
            raise ManifestError(f"{self._what}: {name} has {len(value)} entries, at most {longest} are allowed")
        return value

    def object(self, name: str) -> dict[str, Any]:
        return self._take(name, dict)

    def has(self, name: str) -> bool:
        """Whether an optional entry is there; null counts as absent."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
        return name in self._left

    def end(self) -> None:
        """Refuse every entry that was not taken: a later minor version, or a mistake."""
        if self._left:
            names = ", ".join(sorted(name[:40] for name in self._left)[:5])
            raise ManifestError(f"{self._what} has {len(self._left)} unknown entries: {names!a}")

    def _take(self, name: str, kind: type[T]) -> T:
        if name not in self._left:
            raise ManifestError(f"{self._what} lacks {name}")
        value = self._left.pop(name)
        if not isinstance(value, kind):
            raise ManifestError(f"{self._what}: {name} is a {type(value).__name__}, expected {kind.__name__}")
        return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ManifestError(f"a JSON object of {len(pairs)} entries repeats a name: readers would disagree about it")
    return found


def _no_constant(_name: str) -> Any:
    raise ManifestError("NaN or infinity stands where JSON knows no such number")
