"""The frame of the console: languages, themes, files, errors, and what a page may not do."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from importlib.resources import files

import pytest
from babel.messages.checkers import checkers
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from centre_console import PAGE

from lampyris.centre.console import assets, page, words
from lampyris.centre.console.tables import csv_of
from lampyris.centre.request import FORM

CONSOLE = files("lampyris.centre.console")
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "N_": None}


def texts_of_source() -> set[str]:
    """Every text of the console's templates and modules that is said in the reader's language."""
    methods = [("**.py", "python"), ("**.jinja", "jinja2.ext:babel_extract")]
    options = {"**.jinja": {"silent": "false", "trimmed": "true"}}
    found = extract_from_dir(str(CONSOLE), methods, options, keywords=KEYWORDS)
    return {message[0] if isinstance(message, tuple) else message for _, _, message, _, _ in found}


def catalogues(language: str):
    for each in (CONSOLE / "locale" / language).iterdir():
        with each.open("rb") as file:
            yield each.name, read_po(file, locale=language)


@pytest.mark.parametrize("language", [one for one in words.LANGUAGES if one != "en"])
def test_every_text_is_said_in_every_language_and_none_for_nothing(language):
    said: dict[str, str] = {}
    for name, catalogue in catalogues(language):
        for message in catalogue:
            if not message.id:
                continue
            forms = message.string if isinstance(message.string, tuple) else (message.string,)
            assert all(forms), f"{name}: {message.id!r} is not translated"
            assert not message.fuzzy, f"{name}: {message.id!r} is uncertain"
            key = message.id[0] if isinstance(message.id, tuple) else message.id
            assert said.setdefault(key, forms[0]) == forms[0], f"{name}: {key!r} is said in two ways"
            for check in checkers:
                check(catalogue, message)
    source = texts_of_source()
    assert source - set(said) == set(), "without a translation"
    assert set(said) - source == set(), "translated, and used nowhere"


def test_a_language_is_the_account_s_then_the_browser_s():
    assert words.chosen("zh_CN", "en") == "zh_CN"
    assert words.chosen(None, None, accept="fr, zh-TW;q=0.3, en;q=0.2") == "zh_CN"
    assert words.chosen(None, "xx", accept="de-AT, *;q=0.1") == "en"
    assert words.chosen(accept="zh;q=0, en;q=broken, ,,;;") == "en"


def test_numbers_and_moments_are_told_as_the_language_has_them():
    english, chinese = words.words_of("en"), words.words_of("zh_CN")
    assert english.number(1234.5678, 1) == "1,234.6"
    assert chinese.duration(3 * 86400 + 7261) == "3天 2小时"
    assert (english.duration(59.9), english.duration(732), english.duration(0)) == ("59 secs", "12 mins", "0 secs")
    assert english.duration(None) == english.number(None) == english.bytes(None) == english.moment(None) == "–"
    assert english.bytes(999) == "999 byte"
    assert english.bytes(1_230_000_000) == "1.2 GB"
    moment = datetime(2026, 11, 22, 23, 30, tzinfo=timezone(timedelta(hours=1)))
    assert chinese.moment(moment, words.zone_of("Asia/Shanghai")) == "2026年11月23日 06:30:00"
    assert chinese.ngettext("%(n)s scan", "%(n)s scans", 1) == "%(n)s scan"
    assert english.ngettext("one", "many", 2) == "many"


@pytest.mark.parametrize("name", [None, "", "../../etc/passwd", "/etc/localtime", "Mars/Olympus", "A" * 65, "\0"])
def test_an_unknown_time_zone_is_utc(name):
    assert words.zone_of(name) is UTC


def test_vendored_files_are_those_that_were_published():
    listed = json.loads((CONSOLE / "static" / "vendored.json").read_text())
    for one in listed:
        content = (CONSOLE / "static" / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert one["licence"] == "0BSD"
        assert one["version"] in one["file"]
    foreign = {each.name for each in (CONSOLE / "static").iterdir() if each.name.endswith(".min.js")}
    assert foreign == {one["file"] for one in listed}


def test_templates_hold_no_script_and_no_style():
    """The policy of every page would refuse them."""
    for each in (CONSOLE / "templates").iterdir():
        text = each.read_text("utf-8")
        assert not re.search(
            r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:|hx-on|hx-vals=.js:", text
        ), each


def test_a_file_is_kept_for_a_year_under_its_digest_alone(client):
    address = assets.address("console.css")
    kept = client.get(address)
    assert "immutable" in kept.headers["cache-control"]
    assert kept.headers["content-type"].startswith("text/css")
    assert kept.content == (CONSOLE / "static" / "console.css").read_bytes()
    other = client.get("/static/0123456789abcdef/console.css")
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
    assert client.get("/static/0123456789abcdef/..%2Fpage.py").status_code == 404
    assert client.get("/static/0123456789abcdef/absent.css").status_code == 404


def test_a_stranger_s_browser_is_led_to_the_page_to_sign_in(client):
    answer = client.get("/?site=a&b=c", headers=PAGE)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2F%3Fsite%3Da%26b%3Dc"
    assert client.get("/").status_code == 401
    part = client.get("/", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/sign-in")


def test_an_error_is_a_page_for_people_and_a_problem_for_programs(signed_in):
    person = signed_in(("radiologist", "centre"))
    shown = person.get("/nowhere", headers=PAGE)
    assert shown.status_code == 404
    assert "Nothing here" in shown.text
    assert person.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_a_page_lets_nothing_run_but_the_console_s_own_files(signed_in):
    shown = signed_in().get("/nowhere", headers=PAGE)
    policy = shown.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert shown.headers["cache-control"] == "no-store"


def test_language_and_theme_are_chosen_and_stay(signed_in, rows):
    person = signed_in(("radiologist", "centre"), login="wang")
    assert person.post("/preferences", data={"language": "zh_CN"}).headers["hx-refresh"] == "true"
    person.post("/preferences", data={"theme": "light"})
    shown = person.get("/nowhere", headers=PAGE).text
    assert 'lang="zh-Hans" data-theme="light"' in shown
    assert "这里没有内容" in shown
    assert rows("SELECT language FROM person WHERE login = 'wang'") == [("zh_CN",)]
    assert person.post("/preferences", data={"language": "tlh"}).status_code == 422
    twice = person.post("/preferences", content=b"a=1&a=2", headers={"Content-Type": FORM})
    assert twice.status_code == 400


def test_the_navigation_shows_what_the_account_may_open(signed_in):
    assert "/sites" not in signed_in(("radiologist", "centre")).get("/nowhere", headers=PAGE).text
    assert 'href="/sites"' in signed_in(("operator", "centre")).get("/nowhere", headers=PAGE).text


@pytest.mark.parametrize(
    "text", ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "/a\n", "", None, "/a\\b"]
)
def test_nobody_is_led_away_from_the_console(text):
    assert page.own_path(text) == "/"


def test_a_path_of_the_console_is_led_to():
    assert page.own_path("/studies/1.2.3?a=b#c") == "/studies/1.2.3?a=b#c"


def test_a_table_cannot_make_a_spreadsheet_run_anything():
    moment = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
    answer = csv_of("scans", ["name", "number", "at"], [["=1+1", -2.5, moment], ["𠮷,^田", None, True]])
    text = answer.body.decode("utf-8-sig")
    assert text == 'name,number,at\r\n\'=1+1,-2.5,2026-11-22T01:02:03Z\r\n"𠮷,^田",,true\r\n'
    assert 'filename="scans.csv"' in answer.headers["content-disposition"]
