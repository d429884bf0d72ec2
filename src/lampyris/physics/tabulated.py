"""Name of a packaged table → its rows, after its checksum has been verified."""

import hashlib
from functools import cache
from importlib.resources import files

from lampyris.model import ProgramError


@cache
def rows(name: str) -> tuple[tuple[str, ...], ...]:
    """The comma-separated rows of one table below `physics/tables`, header lines left out.

    Raises ProgramError where the body does not have the SHA-256 that its header states.
    """
    text = (files("lampyris.physics") / "tables" / name).read_text(encoding="utf-8")
    return parse(text, name)


def parse(text: str, name: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a table's text: header lines start with '#', one of them is `# sha256: …` of all that follows."""
    lines = text.splitlines(keepends=True)
    header = [line for line in lines if line.startswith("#")]
    body = "".join(lines[len(header) :])
    stated = next((line.split()[-1] for line in header if line.startswith("# sha256:")), "none")
    found = hashlib.sha256(body.encode()).hexdigest()
    if stated != found:
        raise ProgramError(
            f"table {name} has SHA-256 {found[:12]}…, its header states {stated[:12]}…: edited by hand, or line ends"
            " rewritten? Make it again with tools/make_physics_tables.py"
        )
    return tuple(tuple(line.rstrip("\n").split(",")) for line in lines[len(header) :])
