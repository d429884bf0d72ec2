"""A centre that scans the thorax phantom → pictures of every page: `make screenshots`, into docs/screenshots.

`lampyris up --demo` is the centre, and nothing is played: its site scans, its workers reconstruct, twice each. A few
more people and sites are let in, so that the pages of an administrator are not empty. Pages are those that the browser
tests walk.
"""

import argparse
import asyncio
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from psycopg.rows import dict_row

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "centre")]

from browser_pages import page_of  # noqa: E402
from test_browser_pages import PAGES  # noqa: E402

from bench.running import await_answer, free_port  # noqa: E402
from lampyris.centre import Settings, access  # noqa: E402
from lampyris.centre.database import dsn_of  # noqa: E402
from lampyris.centre.people import sessions  # noqa: E402
from lampyris.centre.people.rules import Action, Role  # noqa: E402

T = TypeVar("T")
OUT = ROOT / "docs" / "screenshots"
WIDE, PHONE = (1280, 800), (390, 844)
COLOURS = 128
CHINESE = {"/journey", "/studies/{study}", "/dose", "/sign-in"}
SMALL = {"/journey", "/studies/{study}", "/sites", "/dose"}
MORE_SITES = ("county-hospital-ct1", "mobile-unit-3")
PEOPLE = (
    ("li.na", "李娜", Role.RADIOLOGIST), ("wang.wei", "王伟", Role.TECHNOLOGIST),
    ("a.berg", "Anna Berg", Role.PHYSICIST), ("o.mueller", "Otto Müller", Role.OPERATOR),
    ("chen.jing", "陈静", Role.AUDITOR), ("k.silva", "Kai Silva", Role.SITE_ADMIN), ("zhao.min", "赵敏", Role.EXPERT),
)  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(prog="screenshots", description=__doc__)
    arguments.add_argument("--scans", type=int, default=3, help="how many scans are done before (default 3)")
    arguments.add_argument("--data", type=Path, metavar="DIR", help="a demo's data that is there (default: a new one)")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        data, port = chosen.data or Path(folder) / "data", free_port()
        url = f"http://127.0.0.1:{port}"
        subprocess.run(["bash", ROOT / "tools" / "install-viewer.sh", _lampyris(), data], check=True)
        with demo(data, port):
            await_answer(f"{url}/readyz")
            study = populated(Settings(data), chosen.scans)
            with sync_playwright() as playwright:
                flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
                shown = _asked(Settings(data), _shown(study))
                taken = sum(_shots(browser, url, Settings(data), path, shown) for path in PAGES)
                browser.close()
    print(f"{taken} pictures, {sum(one.stat().st_size for one in OUT.glob('*.png')) / 1e6:.2f} MB, in {OUT}")


@contextmanager
def demo(data: Path, port: int) -> Iterator[None]:
    """A centre with its demo site, which scans again and again."""
    command = [_lampyris(), "up", "--demo", "--data", str(data), "--port", str(port), "--every", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        process.wait()


def populated(settings: Settings, scans: int) -> str:
    """Wait until so many scans are done and made again with the routine recipe; let people in. A study's UID."""

    async def people(connection: Any) -> None:
        for name in MORE_SITES:
            await access.invite(connection, name)  # another code, where it is invited already
        for login, name, role in PEOPLE:
            await connection.execute(
                "INSERT INTO person (login, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", (login, name)
            )
            await connection.execute(
                "INSERT INTO granted (person, role, tenant) SELECT number, %s, 'centre' FROM person WHERE login = %s"
                " ON CONFLICT DO NOTHING",
                (role, login),
            )

    async def done(connection: Any) -> str | None:
        cursor = await connection.execute(
            "SELECT min(uid) AS uid, count(*) AS studies FROM study WHERE number IN (SELECT study FROM series"
            " WHERE role = 'image' GROUP BY study HAVING count(*) >= 2)"
        )
        row = await cursor.fetchone()
        return row["uid"] if row["studies"] >= scans else None

    _asked(settings, people)
    while (uid := _asked(settings, done)) is None:
        time.sleep(2.0)
    return uid


def _shown(study: str) -> Callable[[Any], Any]:
    async def found(connection: Any) -> dict[str, str]:
        cursor = await connection.execute(
            "SELECT scan.site, scan.id AS scan, (SELECT digest FROM recipe WHERE name = 'swift' LIMIT 1) AS digest"
            " FROM scan JOIN series ON series.scan = scan.number JOIN study ON study.number = series.study"
            " WHERE study.uid = %s LIMIT 1",
            (study,),
        )
        return {**(await cursor.fetchone()), "study": study, "login": PEOPLE[0][0], "tenant": "demo"}

    return found


def _shots(browser: Browser, url: str, settings: Settings, path: str, shown: dict[str, str]) -> int:
    """Pictures of one page, of somebody who may see it; how many."""
    kinds = [("en", WIDE)] + [("zh", WIDE)] * (path in CHINESE) + [("en", PHONE)] * (path in SMALL)
    for language, size in kinds:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, base_url=url, timezone_id="Asia/Shanghai",
            locale={"en": "en-GB", "zh": "zh-CN"}[language],
        )  # fmt: skip
        if page_of(path).action is not Action.OPEN:
            cookie = _asked(settings, _signed_in(_reader(path), language))
            context.add_cookies([{"name": sessions.COOKIE, "value": cookie, "url": url}])
        page = context.new_page()
        page.goto(PAGES[path].format(**shown), wait_until="load")
        _settle(page, path)
        name = re.sub(r"[/{}_]+", "-", path).strip("-")
        _keep(page, OUT / f"{name}-{language}-{size[0]}.png")
        context.close()
    return len(kinds)


def _settle(page: Page, path: str) -> None:
    """Wait until what is fetched later is there."""
    if path.startswith("/viewer"):
        page.wait_for_function("() => document.querySelectorAll('canvas.cornerstone-canvas').length === 3")
        page.wait_for_timeout(5000)
    page.wait_for_function(
        "() => [...document.images].filter(one => one.getBoundingClientRect().top < innerHeight)"
        ".every(one => one.complete && one.naturalWidth)"
    )
    page.wait_for_timeout(1000)


def _keep(page: Page, place: Path) -> None:
    """A picture in a palette, as small as PNG makes it."""
    OUT.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(place, optimize=True)


def _reader(path: str) -> str:
    """Login of somebody who may see a page, and sees most on it."""
    page = page_of(path)
    return next(login for login, _, role in PEOPLE if page.seen_by(role))


def _signed_in(login: str, language: str) -> Callable[[Any], Any]:
    async def begun(connection: Any) -> str:
        spoken = {"en": "en", "zh": "zh_CN"}[language]
        cursor = await connection.execute(
            "UPDATE person SET language = %s WHERE login = %s RETURNING number", (spoken, login)
        )
        session = await sessions.begin(connection, (await cursor.fetchone())["number"], "127.0.0.1")
        return session.cookie

    return begun


def _asked(settings: Settings, action: Callable[[Any], Any]) -> Any:
    """Do something with the database, in a thread that has no event loop yet."""

    async def whole() -> Any:
        async with await psycopg.AsyncConnection.connect(
            dsn_of(settings), autocommit=True, row_factory=dict_row
        ) as connection:
            return await action(connection)

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(whole())).result()


def _lampyris() -> str:
    return os.environ.get("LAMPYRIS", str(Path(sys.executable).with_name("lampyris")))


if __name__ == "__main__":
    main()
