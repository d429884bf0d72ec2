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
    also: tuple[Action, ...] = ()
    """Other actions, each of which is enough to see it."""


ENTRIES = (
    Entry("/journey", N_("Journey"), Action.SCAN_READ, "j"),
    Entry("/studies", N_("Studies"), Action.STUDY_READ, "u"),
    Entry("/sites", N_("Sites"), Action.SITE_READ, "s"),
    Entry("/dose", N_("Dose"), Action.DOSE_READ, "d"),
    Entry("/emergency", N_("Emergency access"), Action.GLASS_BREAK, "e"),
    Entry("/emergency/opened", N_("Emergencies"), Action.GLASS_READ, "o"),
    Entry(
        "/administration", N_("Administration"), Action.PEOPLE_MANAGE, "a", (Action.RECIPE_MANAGE, Action.AUDIT_READ)
    ),
)
"""In the order in which they are shown."""


def entries_of(caller: Caller | None) -> tuple[Entry, ...]:
    """What somebody may open; nothing for a stranger."""
    return (
        ()
        if caller is None
        else tuple(entry for entry in ENTRIES if any(caller.may(each) for each in (entry.action, *entry.also)))
    )
