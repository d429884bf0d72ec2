"""Every page, as every role sees it: it works, fits, speaks both languages, and ends where the role ends."""

import re

import pytest
from browser_pages import page_of, routes
from browser_watch import PHONE, Visitor, grave_faults, overflow

from lampyris import recipes
from lampyris.centre.people.rules import Role

pytestmark = pytest.mark.judge
PAGES = {
    "/journey": "/journey",
    "/journey/{site}/{scan}": "/journey/{site}/{scan}",
    "/studies": "/studies",
    "/studies/{study}": "/studies/{study}",
    "/sites": "/sites",
    "/sites/new": "/sites/new",
    "/sites/{site}": "/sites/{site}",
    "/dose": "/dose",
    "/administration/people": "/administration/people",
    "/administration/people/new": "/administration/people/new",
    "/administration/people/{login}": "/administration/people/{login}",
    "/administration/tenants": "/administration/tenants",
    "/administration/tenants/{tenant}": "/administration/tenants/{tenant}",
    "/administration/recipes": "/administration/recipes",
    "/administration/recipes/{digest}": "/administration/recipes/{digest}",
    "/administration/protocols": "/administration/protocols",
    "/administration/retention": "/administration/retention",
    "/administration/nodes": "/administration/nodes",
    "/administration/audit": "/administration/audit",
    "/sign-in": "/sign-in",
    "/account": "/account",
    "/emergency": "/emergency",
    "/emergency/opened": "/emergency/opened",
    "/viewer/read": "/viewer/read?StudyInstanceUIDs={study}",
}
"""Each page's route, and an address of it that shows something."""
NOT_WALKED = {
    "/": "leads to the first page of whoever asks",
    "/administration": "leads to the first of its pages that the caller may open",
    "/administration/people/{login}/roles/{role}/{tenant}": "a question on its page",
    "/administration/people/{login}/shut-out": "a question on its page",
    "/administration/tenants/{tenant}/move": "a question on its page",
    "/administration/recipes/{digest}/activate": "a question on its page",
    "/administration/recipes/{digest}/retire": "a question on its page",
    "/administration/recipes/{digest}/json": "a file",
    "/administration/nodes/{site}/{aet}/remove": "a question on its page",
    "/administration/audit/verify": "a part of its page",
    "/administration/audit/export/{form}": "a file",
    "/viewer": "leads to the first page",
    "/sign-in/once/{code}": "walked in test_browser_stories: a code is good once",
    "/sign-in/provider": "leads to another origin, where one is set up",
    "/sign-in/provider/back": "where that one leads back to",
    "/journey/events": "a stream; watched in test_browser_stories",
    "/studies/{study}/events": "a stream",
    "/sites/events": "a stream",
    "/sites/{site}/events": "a stream; watched in test_browser_stories",
    "/nodes": "for programs: JSON",
    "/orders": "for programs: JSON",
    "/studies/{study_uid}/sendings": "for programs: JSON",
}
FILES = (".csv", ".svg", ".png", ".zip")
"""Endings of what is saved or drawn on a page."""
ENGLISH = re.compile(r"[A-Za-z]{3,}(?:[ -]+[A-Za-z]{2,})+")
"""Two words of English; names, units and codes are single ones."""
TERMS = re.compile(
    "|".join(["Study Instance UID", "ACR DIR", "st-anna-ct2", *sorted(recipes.names(), key=len, reverse=True)])
)
"""Names of the standard, of registries and of recipes, which are the same in every language."""
THEIRS = frozenset({"/viewer/read"})
"""What others have made: their words and contrasts are theirs. What it draws is looked at in test_browser_viewer."""


def address(path: str, shown: dict[str, str]) -> str:
    return PAGES[path].format(**shown)


def said_here(page) -> list[str]:
    """Texts that a person reads and that are not marked as another language, code or data."""
    return list(
        page.evaluate(
            """() => {
            const spared = 'script, style, noscript, code, pre, kbd, samp, svg, option, [lang=en], [translate=no]';
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const found = [];
            while (walk.nextNode()) {
              const one = walk.currentNode.parentElement;
              if (!one.closest(spared) && one.checkVisibility()) { found.push(walk.currentNode.data.trim()); }
            }
            return found.filter(one => one);
        }"""
        )
    )


def test_every_route_that_people_can_open_is_walked():
    open_to_people = {one.path for one in routes() if not one.path.endswith(FILES)}
    assert open_to_people == set(PAGES) | set(NOT_WALKED), "a page without a walk, or a walk without a page"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_and_can_be_used_by_everybody(path, visit, axe, shown):
    """At 1280 and 390 pixels, dark and by daylight: nothing hangs over, axe-core finds nothing serious."""
    reader = page_of(path).reader
    visitor = visit((str(reader), "centre")) if path != "/sign-in" else visit()
    page = visitor.open(address(path, shown))
    if path in THEIRS:
        return
    assert page.locator("h1").count() == 1
    for size, theme in (((1280, 800), "dark"), (PHONE, "dark"), (PHONE, "light"), ((1280, 800), "light")):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        assert overflow(page) == [], (size, theme)
        if size == PHONE or theme == "light":
            assert grave_faults(page, axe) == [], (size, theme)


@pytest.mark.parametrize("path", [one for one in PAGES if one not in THEIRS])
def test_a_page_says_nothing_in_english_where_chinese_should_be(path, visit, shown):
    reader = page_of(path).reader
    visitor = visit((str(reader), "centre"), language="zh_CN") if path != "/sign-in" else visit(locale="zh-CN")
    page = visitor.open(address(path, shown))
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    for text in said_here(page):
        assert not ENGLISH.search(TERMS.sub("", text)), text


@pytest.mark.parametrize("role", Role)
def test_a_role_sees_its_pages_and_is_refused_where_it_ends(role, visit, shown):
    """Each page, in one window; the navigation offers what may be opened and nothing else."""
    visitor: Visitor = visit((str(role), "centre"))
    for page in (page_of(path) for path in PAGES if path != "/sign-in"):
        if page.seen_by(role):
            visitor.open(address(page.path, shown))
            assert page.path in THEIRS or visitor.page.locator("h1").first.is_visible(), page.path
        else:
            with visitor.refused(403):
                visitor.open(address(page.path, shown))
            assert "403" in visitor.page.locator("main").inner_text()
    visitor.open("/account")
    offered = [one.get_attribute("href") for one in visitor.page.locator("nav.pages a").all()]
    assert offered == [one for one in offered if page_of(one).seen_by(role)]
