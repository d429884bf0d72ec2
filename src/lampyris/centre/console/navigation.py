"""A caller → the pages that they may go to; each package's page adds its own line."""

from dataclasses import dataclass

from lampyris.centre.console.words import N_
from lampyris.centre.people.callers import Caller
from lampyris.centre.people.rules import Action


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of the navigation; `key` after `g` opens it."""

    path: str
    label: str
    action: Action
    key: str


ENTRIES = (
    Entry("/journey", N_("Journey"), Action.SCAN_READ, "j"),
    Entry("/sites", N_("Sites"), Action.SITE_READ, "s"),
    Entry("/emergency", N_("Emergency access"), Action.GLASS_BREAK, "e"),
    Entry("/emergency/opened", N_("Emergencies"), Action.GLASS_READ, "o"),
)
"""In the order in which they are shown."""


def entries_of(caller: Caller | None) -> tuple[Entry, ...]:
    """What somebody may open; nothing for a stranger."""
    return () if caller is None else tuple(entry for entry in ENTRIES if caller.may(entry.action))
