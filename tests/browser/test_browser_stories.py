"""What people do at a centre, from the door to the last page, in a browser."""

import asyncio

import psycopg
import pytest
from browser_centre import RECIPE, SITE, NearSite, aside, packed
from browser_watch import PATIENCE_MS, picture
from playwright.sync_api import expect
from psycopg.rows import dict_row

from lampyris.centre.people import accounts
from lampyris.centre.people.accounts import Newcomer
from lampyris.centre.people.rules import Role
from lampyris.centre.people.tenants import MACHINE

pytestmark = pytest.mark.judge
expect.set_options(timeout=PATIENCE_MS)
PASSWORD = "correct horse 电池"


def newcomer(place, login: str, role: Role) -> str:
    """A person who has not chosen a password yet; the code of the link with which they do."""

    async def made() -> str:
        async with await psycopg.AsyncConnection.connect(
            place.settings.dsn, autocommit=True, row_factory=dict_row
        ) as connection:
            await accounts.create(connection, MACHINE, Newcomer(login, "𠮷 医生", role, "centre"))
            return await accounts.password_link(connection, MACHINE, login)

    return str(aside(lambda: asyncio.run(made())))


def test_somebody_new_chooses_a_password_comes_in_changes_the_language_and_goes(visit, place):
    code = newcomer(place, "ji", Role.RADIOLOGIST)
    visitor = visit()
    page = visitor.open(f"/sign-in/once/{code}")
    for field in page.locator("input[type=password]").all():
        field.fill(PASSWORD)
    page.locator("main form button").first.click()
    page.wait_for_url("**/sign-in**")
    page.get_by_label("Login").fill("ji")
    page.get_by_label("Password").fill("not this one")
    with visitor.refused(401):
        page.locator("main form button").first.click()
        page.get_by_role("alert").wait_for()
    page.get_by_label("Login").fill("ji")
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main form button").first.click()
    page.wait_for_url(lambda url: "/sign-in" not in url)
    visitor.open("/account")
    assert "𠮷 医生" in page.locator("header.bar").inner_text()
    page.locator("header details.menu summary").click()
    page.locator("header").get_by_role("button", name="简体中文").click()
    page.wait_for_function("() => document.documentElement.lang === 'zh-Hans'")
    page.locator("header details.menu summary").click()
    page.locator("header").get_by_role("button", name="退出登录").click()
    page.wait_for_url("**/sign-in**")
    visitor.open("/account")
    assert "/sign-in?next=%2Faccount" in page.url


def test_a_scan_is_watched_from_its_first_byte_to_its_series(visit, place, study):
    """The page is never loaded again: each state comes to it."""
    page = visit(("technologist", "centre")).open("/journey")
    page.evaluate("() => { window.isTheSame = true; }")
    pieces = list(packed(seed=4))
    manifest = place.site.manifest(pieces, recipe=RECIPE, priority="stat")
    row = page.locator("tbody tr", has=page.locator(f"code:text-is('{manifest.scan[:10]}')"))
    state = row.locator(".state-of")
    assert place.site.open(manifest).status_code == 201
    expect(state).to_contain_text("arriving")
    expect(row).to_contain_text("STAT")
    for piece in pieces:
        assert place.site.put(manifest.scan, piece).status_code == 204
    assert place.site.commit(manifest).status_code == 202
    expect(state).to_contain_text("waiting")
    with place.working():
        expect(state).to_contain_text("in work")
        expect(state).to_contain_text("done")
    assert page.evaluate("() => window.isTheSame")
    row.locator("a").first.click()
    page.wait_for_url(f"**/journey/{SITE}/{manifest.scan}")


def test_a_study_is_compared_and_opened_in_the_viewer(visit, study):
    """The slider uncovers the routine image; the button opens the viewer with this very study."""
    page = visit(("radiologist", "centre")).open(f"/studies/{study}")
    page.locator("#compare").get_by_text("Soft tissue").click()
    page.wait_for_selector("#compare .stage:not(.waits)")
    slider = page.locator("#compare .divide")
    slider.scroll_into_view_if_needed()
    stage = page.locator("#compare .stage")
    seen = []
    for end in ("Home", "End"):
        slider.focus()
        slider.press(end)
        page.wait_for_function("() => [...document.querySelectorAll('#compare img')].every(one => one.complete)")
        seen.append(picture(stage))
    inner = slice(seen[0].shape[0] // 4, -seen[0].shape[0] // 4)
    changed = (abs(seen[0] - seen[1]).max(2) > 5.0)[inner, inner]
    assert changed.any(), "one end shows one image, the other end the other"
    page.get_by_role("link", name="Open in the viewer").click()
    page.wait_for_selector("canvas.cornerstone-canvas", state="attached")
    assert page.url.endswith(f"/viewer/read?StudyInstanceUIDs={study}")


def test_a_site_is_enrolled_with_the_code_on_the_screen(visit, place):
    page = visit(("operator", "centre")).open("/sites/new")
    page.locator("input[name=site]").fill("new-county-ct1")
    page.get_by_role("button", name="Make a code").click()
    code = page.locator("#code").inner_text().replace("-", "")
    assert code in page.locator("#command").inner_text().replace("-", "")
    NearSite(place.client, "new-county-ct1", code)
    expect(page.locator(".arrived")).to_contain_text("has enrolled")


def test_a_scan_that_fails_says_why(visit, place):
    manifest = place.site.send([b"no scan at all"], recipe=RECIPE)
    aside(place.work)
    page = visit(("technologist", "centre")).open("/journey?state=refused")
    assert "INPUT_FORMAT" in page.locator("tbody tr", has_text=manifest.scan[:10]).inner_text()
