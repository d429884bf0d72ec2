"""docs/security.md names tests: each of them exists, and each line of its tables names one."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text("utf-8")


def test_every_test_that_the_checklist_names_exists():
    known = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 40
    assert named - known == set()


def test_every_line_of_the_checklist_names_its_proof():
    lines = [
        line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith(("|---", "| what could"))
    ]
    assert len(lines) > 30
    assert [line for line in lines if not re.search(r"`test_\w+`[^|]*\|$", line)] == []
