"""Rows of a table → a file of comma-separated values that a spreadsheet opens as it is, and cannot be made to run."""

import csv
import io
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import UTC, date, datetime

from fastapi.responses import Response, StreamingResponse

_RUNS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
_KIND = "text/csv; charset=utf-8"
_PIECE = 1000


def csv_of(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[object]] | AsyncIterable[Sequence[object]]
) -> Response:
    """RFC 4180, UTF-8 with a byte order mark, in which spreadsheets read Chinese; saved as `name`.csv.

    Rows may come one after the other, as they are read. Column names are for programs too and are not translated.
    Moments are UTC (RFC 3339); None is empty; a text that a spreadsheet would take for a formula is led by an
    apostrophe.
    """
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.csv"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    begin = b"\xef\xbb\xbf" + _lines([columns])
    if isinstance(rows, AsyncIterable):
        return StreamingResponse(_streamed(begin, rows), media_type=_KIND, headers=headers)
    return Response(begin + _lines(rows), media_type=_KIND, headers=headers)


async def _streamed(begin: bytes, rows: AsyncIterable[Sequence[object]]) -> AsyncIterator[bytes]:
    """The file in pieces of a thousand lines: it may be longer than what memory should hold."""
    yield begin
    piece: list[Sequence[object]] = []
    async for row in rows:
        piece.append(row)
        if len(piece) == _PIECE:
            yield _lines(piece)
            piece.clear()
    yield _lines(piece)


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


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
