"""A centre with real results for browsers to look at: small scans of the thorax, made by the real journey."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import httpx
import psycopg
from centre_people import sign_in
from centre_site import Site
from psycopg.rows import dict_row

from lampyris import phantom, raw, simulate
from lampyris.centre import Settings, access, opened
from lampyris.centre.jobs import reconstruct
from lampyris.centre.jobs.worker import work
from lampyris.centre.people.sessions import Session
from lampyris.centre.store import Store
from lampyris.transfer import Manifest, limits

EVERY = ("stat", "routine", "batch")
SITE = "st-anna"
AUDIENCE = "http://127.0.0.1"
"""No TLS, so that cookies travel without it."""
RECIPE, COMPANION = "swift", "routine"
MATRIX, THICKNESS_MM = 128, 2.5
FIRST_MM, LAST_MM = 15.0, 32.0


def aside(action: Callable[[], Any]) -> Any:
    """Do it in another thread: in this one a browser's event loop runs, and no second one may."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(action).result()


@cache
def packed(seed: int) -> tuple[bytes, ...]:
    """Chunks of one turn about the nodule of the thorax, 8 rows of 224 coarse cells, at a tenth of the dose."""
    preset = simulate.scanner("mdct16")
    cell = (3 * preset.cell_mm[0], 3 * preset.cell_mm[1])
    scanner = dataclasses.replace(preset, rows=8, columns=224, cell_mm=cell, views_per_turn=290, air_views=200)
    protocol = simulate.Protocol(kind="axial", mas=200.0, first_mm=FIRST_MM, last_mm=LAST_MM)
    scan = simulate.scan(phantom.thorax(), scanner, protocol, dose=0.1, seed=seed)
    return tuple(part.content for part in raw.pack(scan, raw.Decision("sigma/4", "a test"), part_bytes=200_000))


def _small(recipe_of: Callable[..., Any]) -> Callable[..., Any]:
    """A centre's recipes, with images of 128² in place of 512²."""

    def made(*arguments: Any) -> Any:
        found = recipe_of(*arguments)
        grid = dataclasses.replace(found.grid, matrix=MATRIX, slice_thickness_mm=THICKNESS_MM)
        return dataclasses.replace(found, grid=grid)

    return made


class NearSite(Site):
    """A site of a centre that speaks to its own machine alone, without TLS; its token does not grow old."""

    @property
    def token(self) -> str:
        if time.monotonic() - self._since > limits.TOKEN_SECONDS / 2:
            self.token = self.fresh_token()
        return self._token

    @token.setter
    def token(self, value: str) -> None:
        self._token, self._since = value, time.monotonic()

    def assertion(self, **changes: Any) -> str:
        return super().assertion(**({"audience": AUDIENCE} | changes))


class Place:
    """A centre that answers at `url`, one site of it, and whoever is needed."""

    def __init__(self, settings: Settings, client: httpx.Client) -> None:
        self.settings, self.client, self.url = settings, client, str(client.base_url).rstrip("/")
        self.site = self.enrol(SITE)
        self._people = 0

    def enrol(self, name: str) -> NearSite:
        """A site with a key."""

        async def invited() -> str:
            async with await psycopg.AsyncConnection.connect(self.settings.dsn, autocommit=True) as connection:
                return await access.invite(connection, name)

        return NearSite(self.client, name, aside(lambda: asyncio.run(invited())))

    def person(self, *roles: tuple[str, str], login: str | None = None, language: str = "en") -> Session:
        """A session of somebody new."""
        self._people += 1
        name = login or f"person-{self._people}"
        session = aside(lambda: sign_in(self.settings, name, roles))
        self.rows("UPDATE person SET language = %s WHERE login = %s", language, name)
        return session

    def send(self, seed: int, **said: Any) -> Manifest:
        """A scan, from its announcement to its commit."""
        study = (("PatientID", f"7f1c{seed:02d}"), ("PatientSex", "F"), ("PatientAge", "056Y"))
        return self.site.send(list(packed(seed)), **({"recipe": RECIPE, "study": study} | said))

    def work(self) -> None:
        """Let a worker empty the queues, in this process."""
        store = Store(self.settings)

        def make(work: Any, manifest: Manifest, folder: Any, watch: Any) -> Any:
            return reconstruct.reconstruct(
                store, manifest, folder, library=work.library, committed=work.committed, watch=watch, other=work.recipe
            )

        async def whole() -> None:
            async with opened(self.settings, connections=4) as centre:
                await work(centre, EVERY, make, signals=False, wait=False)

        with mock.patch.object(reconstruct, "recipe_of", _small(reconstruct.recipe_of)):
            asyncio.run(whole())

    @contextmanager
    def working(self) -> Iterator[None]:
        """The same, in a thread, while somebody watches; all is done at the end."""
        thread = threading.Thread(target=self.work)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What the database holds."""
        with psycopg.connect(self.settings.dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []
