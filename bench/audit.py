"""How fast the chain of the audit grows, and how long one who writes to it waits: `python -m bench.audit`."""

import asyncio
import tempfile
import time
from pathlib import Path

from lampyris.centre import Centre, Settings, opened
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.audit.search import Wanted, search
from lampyris.centre.audit.verify import verify

_ENTRIES = 2000


async def _written(centre: Centre, writers: int) -> list[float]:
    """Seconds that each entry took, with so many who write at once."""
    took: list[float] = []

    async def one(number: int) -> None:
        async with centre.pool.connection() as connection:
            for _ in range(_ENTRIES // writers):
                began = time.perf_counter()
                entry = Entry(Kind.VIEW, f"person-{number}", address="10.0.0.7", site="st-anna", object="1.2.826.0.1.7")
                await note(connection, entry)
                took.append(time.perf_counter() - began)

    await asyncio.gather(*(one(number) for number in range(writers)))
    return sorted(took)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lampyris-") as folder:
        async with opened(Settings(Path(folder)), connections=16) as centre:
            for writers in (1, 8):
                began = time.perf_counter()
                took = await _written(centre, writers)
                rate = len(took) / (time.perf_counter() - began)
                print(
                    f"{writers} at once: {rate:.0f} entries/s, half within {took[len(took) // 2] * 1e3:.1f} ms,"
                    f" 99 % within {took[len(took) * 99 // 100] * 1e3:.1f} ms"
                )
            async with centre.pool.connection() as connection:
                began = time.perf_counter()
                found = await verify(connection)
                print(f"verified: {found.links / (time.perf_counter() - began):.0f} links/s")
                began = time.perf_counter()
                await search(connection, ("centre",), Wanted(object="1.2.826.0.1.7"))
                print(f"a page of a search: {(time.perf_counter() - began) * 1e3:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
