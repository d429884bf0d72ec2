"""A browser, and one centre for all of its tests: a scan is done there, with two recipes."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from browser_centre import AUDIENCE, COMPANION, SITE, Place, aside
from browser_watch import Visitor
from centre_site import served
from playwright.sync_api import Browser, sync_playwright

from lampyris.centre import Settings
from lampyris.centre.api import create
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.viewer import prepare


@pytest.fixture(scope="session")
def place(npm_package) -> Iterator[Place]:
    """A centre, with its reading viewer; not below pytest's folders, which shut PostgreSQL's user out."""
    package = npm_package("@ohif/app")
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        settings = Settings(Path(folder), audience=AUDIENCE, heartbeat_s=0.5, free_bytes=1, companion=COMPANION)
        dsn = dsn_of(settings)
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            migrate(dsn)
            settings = dataclasses.replace(settings, dsn=dsn)
            prepare(package, settings.viewer_folder)
            with served(create(settings)) as client:
                yield Place(settings, client)
        finally:
            stop(dataclasses.replace(settings, dsn=None))


@pytest.fixture(scope="session")
def study(place) -> str:
    """UID of a study that is done: the series of the recipe that was asked for, its maps, and the routine one."""
    place.send(seed=3)
    aside(place.work)
    return str(place.rows("SELECT uid FROM study ORDER BY number")[0]["uid"])


@pytest.fixture(scope="session")
def shown(place, study) -> dict[str, str]:
    """What stands for the names in addresses of pages."""
    (scan,) = place.rows("SELECT id FROM scan WHERE state = 'done' ORDER BY number LIMIT 1")
    (recipe,) = place.rows("SELECT digest FROM recipe ORDER BY digest LIMIT 1")
    place.person(("technologist", SITE), login="shown")
    return {
        "study": study, "site": SITE, "scan": scan["id"], "login": "shown", "tenant": SITE, "digest": recipe["digest"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def browser(program) -> Iterator[Browser]:
    """Debian's Chromium; WebGL is drawn in software.

    Not for longer than a module: while it is there an event loop runs in this thread, and others' tests have theirs.
    """
    flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program("chromium"), args=flags)
        yield found
        found.close()


@pytest.fixture
def visit(browser, place) -> Iterator[Callable[..., Visitor]]:
    """Somebody with these roles, each at a tenant, in front of a browser; what went wrong fails the test."""
    visitors: list[Visitor] = []

    def make(*roles: tuple[str, str], language: str = "en", **more: Any) -> Visitor:
        session = place.person(*roles, language=language) if roles else None
        visitors.append(Visitor(browser, place.url, session, **more))
        return visitors[-1]

    yield make
    faults = [fault for each in visitors for fault in each.faults]
    for each in visitors:
        each.context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture(scope="session")
def axe(npm_package) -> str:
    """axe-core, which finds faults of accessibility."""
    return (npm_package("axe-core") / "axe.min.js").read_text("utf-8")
