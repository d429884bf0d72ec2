"""An array → which part of it to work on, and how much at a time: a cache's worth on a processor, much on a card."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from array_api_compat import array_namespace, device

CARD_VALUES = 1 << 24
"""On a card: 64 MiB, beside which starting a kernel takes no time, and ten temporaries of them little memory."""
Views: TypeAlias = slice | Sequence[int]
"""Which views of a scan: a slice, or indices in any order."""
Up: TypeAlias = Callable[[Any], Any]
"""Takes an array of a scan to where it is worked on."""


def as_it_is(array: Any) -> Any:
    """An array that is worked on where it is."""
    return array


def at_a_time(array: Any, cached: int) -> int:
    """`cached` values of an array in a processor's memory, whose caches should hold temporaries; else `CARD_VALUES`."""
    return cached if "cpu" in str(device(array)).lower() else max(cached, CARD_VALUES)


def of_views(values: Any, views: Views) -> Any:
    """Some views of an array of any kind; a view of it where `views` is a slice."""
    if isinstance(views, slice):
        return values[views, ...]
    xp = array_namespace(values)
    return xp.take(values, xp.asarray(list(views), dtype=xp.int64, device=device(values)), axis=0)
