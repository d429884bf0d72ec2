"""Rows of a table → a file of comma-separated values that a spreadsheet opens as it is, and cannot be made to run."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime

from fastapi.responses import Response

_RUNS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def csv_of(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Response:
    """RFC 4180, UTF-8 with a byte order mark, in which spreadsheets read Chinese; saved as `name`.csv.

    Column names are for programs too and are not translated. Moments are UTC (RFC 3339); None is empty; a text that a
    spreadsheet would take for a formula is led by an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.csv"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(b"\xef\xbb\xbf" + text.getvalue().encode(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_RUNS) else text
