"""The page for people names every page of the console, its key, and the roles that may open it."""

import re
from pathlib import Path

from lampyris.centre.console.navigation import ENTRIES
from lampyris.centre.people.rules import MAY, Role

PAGE = Path(__file__).resolve().parents[2] / "docs" / "console.md"
WORDS = {Role.SITE_ADMIN: "site administrator"}


def rows() -> dict[str, tuple[str, str]]:
    """Name → key and roles."""
    found = re.findall(r"^\| ([^|]+) \| `g (\w)` \| [^|]+ \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    return {name: (key, who) for name, key, who in found}


def test_every_page_and_its_key_are_on_the_page_for_people():
    assert {name: key for name, (key, _) in rows().items()} == {entry.label: entry.key for entry in ENTRIES}


def test_the_roles_named_are_those_that_may_open_the_page():
    for entry in ENTRIES:
        may = {role for role in Role if {entry.action, *entry.also} & MAY[role]}
        told = re.sub(r" \([^)]*\)", "", rows()[entry.label][1]).split(", ")
        assert set(told) == {WORDS.get(role, str(role)) for role in may}, entry.label
