"""Links of the chain → CSV for people, JSON lines that prove themselves, or DICOM audit messages, one a line.

A JSON line without its `digest` is, written again with sorted keys and no spaces, the text whose SHA-256 the digest is;
`before` is the digest of the entry before it. docs/audit.md has the few lines that check a file without the centre.
"""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from lampyris.centre.audit.chain import Link, signed_of
from lampyris.centre.audit.messages import message_of
from lampyris.model.arrays import canonical_json

FORMATS = ("csv", "lines", "dicom")
TYPES = {"csv": "text/csv; charset=utf-8", "lines": "application/jsonl; charset=utf-8", "dicom": "text/plain"}
NAMES = {"csv": "audit.csv", "lines": "audit.jsonl", "dicom": "audit-messages.txt"}
TITLES = ("number", "at", "kind", "who", "outcome", "address", "site", "object", "detail", "digest")
_AT_ONCE = 200
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for a formula at the beginning of a cell: strangers choose some of the texts."""


async def export(links: AsyncIterator[Link], form: str, source: str) -> AsyncIterator[bytes]:
    """Pieces of a file in UTF-8, in one of `FORMATS`; `source` names the centre in its messages."""
    line: Callable[[Link], str]
    if form == "csv":
        line = _row
        yield _cells(TITLES).encode()
    elif form == "lines":
        line = line_of
    else:

        def line(link: Link) -> str:
            return f"{message_of(link, source)}\n"

    held: list[str] = []
    async for link in links:
        held.append(line(link))
        if len(held) == _AT_ONCE:
            yield "".join(held).encode()
            held.clear()
    if held:
        yield "".join(held).encode()


def line_of(link: Link) -> str:
    """One entry as a line of JSON that proves itself."""
    return canonical_json({**signed_of(_facts(link), link.before), "digest": link.digest}) + "\n"


def _facts(link: Link) -> dict[str, Any]:
    entry = link.entry
    return {
        "number": link.number, "at": link.at, "kind": str(entry.kind), "who": entry.who, "outcome": entry.outcome,
        "address": entry.address, "site": entry.site, "object": entry.object, "detail": entry.detail,
    }  # fmt: skip


def _row(link: Link) -> str:
    facts = {**_facts(link), "at": link.at.isoformat(), "digest": link.digest}
    facts["detail"] = json.dumps(link.entry.detail, ensure_ascii=False, sort_keys=True) if link.entry.detail else ""
    return _cells(["" if facts[name] is None else str(facts[name]) for name in TITLES])


def _cells(values: Sequence[str]) -> str:
    """One line of CSV (RFC 4180)."""
    text = io.StringIO()
    csv.writer(text).writerow(f"'{one}" if one.startswith(_FORMULA) else one for one in values)
    return text.getvalue()
