"""How long the page of doses asks an index of 100 000 irradiations of 40 sites: `python -m bench.doses`."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from lampyris.centre import Centre, Settings, opened
from lampyris.centre.database import Connection
from lampyris.centre.dose import statistics
from lampyris.centre.dose.statistics import Which

_ROWS, _SITES, _TRIES = 100_000, 40, 5
_FILL = """
    INSERT INTO dose (site, event, report, study_uid, patient, at, scanner, examination, protocol, age_class, ctdivol,
                      dlp, ssde, size_mm)
    SELECT 'site-' || n % {sites}, '1.2.' || n, '1.3.' || n, '1.4.' || n, md5((n / 3)::text),
           timestamptz '2025-11-22 00:00Z' + n * interval '5 minutes', 'Testscan T1',
           (ARRAY['chest', 'chest', 'head', 'abdomen_pelvis', 'abdomen'])[1 + n % 5],
           (ARRAY['routine', 'low dose'])[1 + n % 2], 'adult', 12 * exp(0.4 * sin(n * 79.19)),
           400 * exp(0.5 * sin(n * 10.4729)), 15 * exp(0.4 * sin(n * 79.19)), 240 + n % 120
    FROM generate_series(1, {rows}) AS n
"""


async def _timed(centre: Centre, name: str, ask: Callable[[Connection], Awaitable[object]]) -> float:
    best = float("inf")
    async with centre.pool.connection() as connection:
        for _ in range(_TRIES):
            began = time.perf_counter()
            await ask(connection)
            best = min(best, time.perf_counter() - began)
    print(f"{name}: {1000 * best:.0f} ms")
    return best


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lampyris-") as folder:
        async with opened(Settings(Path(folder)), connections=4) as centre:
            async with centre.pool.connection() as connection:
                await connection.execute(
                    "INSERT INTO site (id) SELECT 'site-' || n FROM generate_series(0, %s) AS n", (_SITES - 1,)
                )
                await connection.execute(_FILL.format(rows=_ROWS, sites=_SITES).encode())
                await connection.execute("UPDATE dose SET repeat_of = number - 1 WHERE number % 50 = 2 AND number > 1")
                await connection.execute("VACUUM ANALYZE dose")
            which = Which(tuple(f"site-{n}" for n in range(_SITES)))
            chest = Which(which.sites, examination="chest")
            total = await _timed(centre, "groups", lambda one: statistics.overview(one, which))
            total += await _timed(centre, "course of chest", lambda one: statistics.trend(one, chest, "ctdivol"))
            total += await _timed(
                centre, "distribution of chest", lambda one: statistics.histogram(one, chest, "ctdivol")
            )
            total += await _timed(centre, "latest repeats", lambda one: statistics.repeats(one, which))
            print(f"{_ROWS} irradiations, {_SITES} sites, the best of {_TRIES}: {1000 * total:.0f} ms together")


if __name__ == "__main__":
    asyncio.run(main())
