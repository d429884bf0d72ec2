"""Somebody in front of a browser → what they see, and everything that went wrong while they looked."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from lampyris.centre.people.sessions import COOKIE, Session

WIDE, PHONE = (1280, 800), (390, 844)
PATIENCE_MS = 60_000
"""For what a loaded machine is slow at; nothing waits longer than it has to."""


class Visitor:
    """A person, or a stranger, with a browser of their own. `faults` holds what no page may do."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        session: Session | None = None,
        *,
        size: tuple[int, int] = WIDE,
        locale="en-GB",
    ) -> None:
        self.url, self.faults = url, list[str]()
        self.context = browser.new_context(
            base_url=url, viewport={"width": size[0], "height": size[1]}, locale=locale, reduced_motion="reduce"
        )
        self.context.set_default_timeout(PATIENCE_MS)
        if session is not None:
            self.context.add_cookies([{"name": COOKIE, "value": session.cookie, "url": url}])
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda said: self._fault(f"console: {said.text}") if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self._fault(f"script: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.context.on("request", self._asked)

    def _fault(self, text: str) -> None:
        self.faults.append(text)

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # a stream that ends because its page was left
            self._fault(f"failed: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self._fault(f"answered {response.status}: {response.request.method} {response.url}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:")):
            self._fault(f"another origin: {request.url}")

    @contextmanager
    def refused(self, status: int) -> Iterator[None]:
        """Within this a page is refused, and only that is no fault."""
        before = len(self.faults)
        yield
        new = self.faults[before:]
        assert any(f"answered {status}" in one for one in new), f"nothing was answered {status}: {new}"
        self.faults[before:] = [one for one in new if f"answered {status}" not in one and f"of {status} (" not in one]

    def open(self, path: str) -> Page:
        """Go to a page of the centre, until it is loaded."""
        self.page.goto(path, wait_until="load")
        return self.page

    def close(self) -> None:
        """Leave; AssertionError if anything went wrong on the way."""
        self.context.close()
        assert not self.faults, "\n".join(self.faults)


def picture(where: Locator | Page) -> np.ndarray:
    """What is drawn there: (rows, columns, 3) in 0 … 255."""
    return np.asarray(Image.open(io.BytesIO(where.screenshot())).convert("RGB"), dtype=np.float32)


def overflow(page: Page) -> list[str]:
    """What makes a page wider than its window: nothing, on a good one."""
    return list(
        page.evaluate(
            """() => {
            const root = document.documentElement;
            if (root.scrollWidth <= root.clientWidth) { return []; }
            const scrolls = one => one && (/(auto|scroll|hidden|clip)/.test(getComputedStyle(one).overflowX)
              || scrolls(one.parentElement));
            return [...document.body.querySelectorAll('*')]
              .filter(one => one.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(one.parentElement))
              .map(one => one.tagName + '.' + one.className).slice(0, 5);
        }"""
        )
    )


def grave_faults(page: Page, axe: str) -> list[str]:
    """What axe-core finds serious or critical (WCAG 2.1 A and AA, and best practice)."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['impact']}: {one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]
