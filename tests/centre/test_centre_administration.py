"""The pages of the administration: who may open which, what a form says when it is wrong, what is written down."""

import dataclasses
import re

import pytest
from centre_console import PAGE

from lampyris import recipes
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.request import FORM

TABS = ("people", "tenants", "recipes", "protocols", "retention", "nodes", "audit")
OPEN = {
    "operator": {"people", "tenants", "recipes", "protocols", "retention", "nodes"},
    "site_admin": {"people", "tenants", "recipes", "protocols"},
    "auditor": {"audit"},
    "radiologist": {"recipes", "protocols"},
}


@pytest.fixture
def operator(signed_in):
    return signed_in(("operator", "centre"), login="wang")


@pytest.fixture
def post():
    """Send a form as the page does."""

    def send(client, path, **fields):
        return client.post(path, data=fields, headers={"Content-Type": FORM})

    return send


@pytest.fixture
def noted(rows):
    """What the audit says of a kind: who, about what, its details."""

    def of(kind):
        return rows("SELECT who, object, detail FROM audit WHERE kind = %s ORDER BY number", kind)

    return of


@pytest.mark.parametrize("role", OPEN)
def test_a_role_opens_its_pages_and_no_other(signed_in, role):
    person = signed_in((role, "centre"))
    for tab in TABS:
        for path in (f"/administration/{tab}", f"/administration/{tab}.csv"):
            if path.endswith("audit.csv"):
                path = "/administration/audit/export/csv"
            answer = person.get(path, headers=PAGE)
            assert answer.status_code == (200 if tab in OPEN[role] else 403), path
    first = person.get("/administration", headers=PAGE)
    assert first.headers["location"].rpartition("/")[2] in OPEN[role]
    assert signed_in().get("/administration").status_code == 403


def test_somebody_is_added_with_a_link_that_is_shown_once(operator, post, noted):
    added = post(operator, "/administration/people", login="zhang", name="张 三", role="technologist", tenant="centre")
    assert re.search(r"/sign-in/once/[A-Za-z0-9_-]{20,}", added.text)
    assert "张 三" in operator.get("/administration/people", headers=PAGE).text
    assert "once/" not in operator.get("/administration/people/zhang", headers=PAGE).text
    assert [(who, about, detail["what"]) for who, about, detail in noted("people")] == [
        ("wang", "zhang", "person.create"),
        ("wang", "zhang", "role.grant"),
        ("wang", "zhang", "person.password_link"),
    ]


def test_what_is_wrong_stands_beside_its_field_and_nothing_is_lost(operator, post, rows):
    again = post(
        operator, "/administration/people", login="Zhang San", name="张 三", role="technologist", tenant="centre"
    )
    field = re.search(r'<p class="field wrong">.*?</p>', again.text, re.S)[0]
    assert 'name="login"' in field
    assert "a login is" in field
    assert 'value="张 三"' in again.text
    assert rows("SELECT count(*) FROM person WHERE login <> 'wang'") == [(0,)]


def test_nobody_gives_what_is_not_theirs_nor_sees_who_is_beyond(signed_in, post, invite, operator, rows):
    for name in ("st-anna", "other-site"):
        invite(name)
    post(operator, "/administration/people", login="li", name="Li", role="radiologist", tenant="other-site")
    admin = signed_in(("site_admin", "st-anna"))
    assert "li" not in re.findall(r'people/([a-z0-9-]+)"', admin.get("/administration/people", headers=PAGE).text)
    assert admin.get("/administration/people/li").status_code == 404
    assert post(admin, "/administration/people/li/roles", role="expert", tenant="st-anna").status_code == 404
    assert post(admin, "/administration/people/li/shut-out").status_code == 404
    said = {"login": "new", "name": "New", "role": "operator", "tenant": "st-anna"}
    assert post(admin, "/administration/people", **said).status_code == 403
    assert post(admin, "/administration/people", **said | {"role": "expert", "tenant": "other-site"}).status_code == 404
    assert post(admin, "/administration/people", **said | {"role": "expert"}).status_code == 200
    assert rows("SELECT login, role, tenant FROM granted JOIN person ON number = person WHERE login = 'new'") == [
        ("new", "expert", "st-anna")
    ]
    assert "other-site" not in admin.get("/administration/tenants", headers=PAGE).text
    assert admin.get("/administration/tenants/other-site").status_code == 404


def test_a_change_is_asked_about_with_its_numbers(operator, signed_in, post, rows, noted):
    signed_in(("expert", "centre"), login="li")
    question = operator.get("/administration/people/li/shut-out").text
    assert "1 session ends now" in question
    assert post(operator, "/administration/people/li/shut-out").headers["hx-redirect"] == "/administration/people/li"
    assert rows("SELECT disabled FROM person WHERE login = 'li'") == [(True,)]
    assert "can sign in again, with 1 role" in operator.get("/administration/people/li/shut-out").text
    assert post(operator, "/administration/people/li/shut-out", undo="yes").status_code == 204
    assert "last role" in operator.get("/administration/people/li/roles/expert/centre").text
    assert operator.delete("/administration/people/li/roles/expert/centre").status_code == 204
    assert operator.get("/administration/people/li/roles/expert/centre").status_code == 404
    assert "last operator" in operator.delete("/administration/people/wang/roles/operator/centre").text
    assert [detail["what"] for _, _, detail in noted("people")] == [
        "person.disable", "person.enable", "role.take_back",
    ]  # fmt: skip


def test_the_tree_grows_is_renamed_and_moved(operator, post, invite, rows):
    invite("st-anna")
    said = {"id": "west", "name": "西省 West", "kind": "province", "parent": "centre"}
    assert post(operator, "/administration/tenants", **said).status_code == 204
    assert "there is a tenant of that id" in post(operator, "/administration/tenants", **said).text
    assert "1 site" in operator.get("/administration/tenants/st-anna/move", params={"parent": "west"}).text
    assert post(operator, "/administration/tenants/st-anna/move", parent="west").status_code == 204
    assert "cannot be below" in post(operator, "/administration/tenants/west/move", parent="st-anna").text
    assert post(operator, "/administration/tenants/west/name", name="West").status_code == 204
    assert "field wrong" in post(operator, "/administration/tenants/west/name", name=" ").text
    assert rows("SELECT id, parent, name FROM tenant WHERE parent IS NOT NULL ORDER BY id") == [
        ("st-anna", "west", "st-anna"), ("west", "centre", "West"),
    ]  # fmt: skip


def test_recipes_are_added_activated_and_retired_and_never_edited(operator, post, noted, signed_in):
    new = dataclasses.replace(recipes.recipe("routine"), version="7-local", kernel="hann")
    path = f"/administration/recipes/{new.digest()}"
    wrong = post(operator, "/administration/recipes", json="{}").text
    assert "field wrong" in wrong
    assert post(operator, "/administration/recipes", json=new.to_json()).headers["hx-redirect"] == path
    shown = operator.get(path, headers=PAGE).text
    assert "&#34;hann&#34;" in shown, "the difference to the version that is active"
    assert operator.get(f"{path}/json").text == new.to_json()
    assert "is retired with that" in operator.get(f"{path}/activate").text
    assert post(operator, f"{path}/activate").status_code == 204
    assert "scans under way name it" in operator.get(f"{path}/retire").text
    assert post(operator, f"{path}/retire").status_code == 204
    assert "retired already" in post(operator, f"{path}/retire").text
    assert [detail["what"] for _, _, detail in noted("configure")] == [
        "recipe added", "recipe activated", "recipe retired",
    ]  # fmt: skip
    assert signed_in(("radiologist", "centre")).get(path, headers=PAGE).status_code == 200
    assert post(signed_in(("radiologist", "centre")), f"{path}/activate").status_code == 403


def test_what_is_one_for_all_is_not_changed_by_a_part_of_the_centre(signed_in, post, invite):
    invite("st-anna")
    part = signed_in(("operator", "st-anna"))
    swift = recipes.recipe("swift").digest()
    assert post(part, f"/administration/recipes/{swift}/retire").status_code == 403
    assert post(part, "/administration/protocols", recipe="swift").status_code == 403
    assert post(part, "/administration/retention/raw", days="1").status_code == 403


def test_rules_are_added_moved_and_taken_away(operator, post, rows):
    path = "/administration/protocols"
    assert post(operator, path, recipe="swift", body_part="HEAD", based_on="0").status_code == 204
    assert "changed the rules meanwhile" in post(operator, path, recipe="model", based_on="0").text
    wrong = post(operator, path, recipe="model", age_from="30", age_below="20", based_on="1").text
    assert "field wrong" in wrong
    assert post(operator, path, recipe="model", age_from="65", based_on="1").status_code == 204
    assert post(operator, f"{path}/1", do="up", based_on="2").status_code == 204
    assert post(operator, f"{path}/1", do="away", based_on="3").status_code == 204
    assert "no such rule" in post(operator, f"{path}/9", do="up", based_on="4").text
    assert rows("SELECT rules FROM protocol ORDER BY number DESC LIMIT 1") == [
        ([{"recipe": "model", "age_from": 65.0}],)
    ]
    assert operator.get(f"{path}.csv").text.splitlines()[1] == ",,65.0,,model"


def test_retention_says_what_the_next_sweep_would_take(operator, post, site, rows, noted):
    scan = site.send([b"piece"])
    rows(
        "UPDATE scan SET state = 'failed', reason_code = 'X', finished = now() - interval '40 days' WHERE id = %s",
        scan.scan,
    )
    assert "takes 1 more" in post(operator, "/administration/retention/failed/ask", days="30").text
    assert "nothing more" in post(operator, "/administration/retention/failed/ask", days="60").text
    assert "expected 0" in post(operator, "/administration/retention/failed/ask", days="-1").text
    assert post(operator, "/administration/retention/failed", days="30").status_code == 204
    assert rows("SELECT days FROM retention WHERE what = 'failed'") == [(30.0,)]
    assert noted("configure")[-1][2] == {"what": "retention changed", "failed": 30.0}
    assert post(operator, "/administration/retention/everything", days="0").status_code == 404


def test_nodes_belong_to_the_caller_s_sites(operator, signed_in, post, invite):
    for name in ("st-anna", "other-site"):
        invite(name)
    said = {"aet": "PACS 1", "site": "st-anna", "host": "127.0.0.1", "port": "9", "charset": "GB18030"}
    assert post(operator, "/administration/nodes", **said, **{"may-store": "on"}).status_code == 204
    assert "field wrong" in post(operator, "/administration/nodes", **said | {"aet": "PACS2", "port": "0"}).text
    assert "PACS 1" in operator.get("/administration/nodes", headers=PAGE).text
    other = signed_in(("operator", "other-site"))
    assert "PACS 1" not in other.get("/administration/nodes", headers=PAGE).text
    assert other.get("/administration/nodes/st-anna/PACS%201/remove").status_code == 404
    assert post(other, "/administration/nodes/st-anna/PACS%201/remove").status_code == 404
    assert post(other, "/administration/nodes", **said | {"aet": "PACS2"}).status_code == 404
    assert post(operator, "/administration/nodes/st-anna/PACS%201/remove").status_code == 204


def test_an_auditor_searches_verifies_and_exports_and_that_is_written_down(signed_in, inside, rows, noted):
    async def action(centre):
        async with centre.pool.connection() as connection:
            for number in range(60):
                await note(connection, Entry(Kind.VIEW, "li", site="st-anna", object=f"1.2.{number}"))
            await note(connection, Entry(Kind.LOGIN, "<script>", "refused"))

    inside(action)
    auditor = signed_in(("auditor", "centre"), login="chen")
    page = auditor.get("/administration/audit", headers=PAGE).text
    assert "&lt;script&gt;" in page
    assert "<script>" not in re.sub(r"<script src=[^>]*>", "", page)
    further = re.search(r'rel="next" href="([^"]+)"', page)[1].replace("&amp;", "&")
    assert "1.2.3<" in auditor.get(further, headers=PAGE).text
    found = auditor.get("/administration/audit", params={"object": "1.2.7"}, headers=PAGE).text
    assert found.count('title="') >= 1
    assert "1.2.8<" not in found
    assert "expected a day" in auditor.get("/administration/audit", params={"since": "soon"}, headers=PAGE).text
    assert "as they were written" in auditor.get("/administration/audit/verify").text
    lines = auditor.get("/administration/audit/export/lines", params={"who": "li"})
    assert len(lines.text.splitlines()) == 60
    assert (
        auditor.get("/administration/audit/export/dicom", params={"object": "1.2.7"}).text.count("<AuditMessage>") == 1
    )
    assert auditor.get("/administration/audit/export/pdf").status_code == 404
    assert [about for _, about, _ in noted("audit")] == ["search", "search", "search", "verify", "export", "export"]
    rows("ALTER TABLE audit DISABLE TRIGGER audit_stays")
    rows("UPDATE audit SET who = 'wang' WHERE number = 5")
    assert "broken at entry 5" in auditor.get("/administration/audit/verify").text


def test_an_auditor_of_a_site_reads_about_that_site_alone(signed_in, inside, invite):
    for name in ("st-anna", "other-site"):
        invite(name)

    async def action(centre):
        async with centre.pool.connection() as connection:
            for name in ("st-anna", "other-site", None):
                await note(connection, Entry(Kind.VIEW, f"reader-of-{name}", site=name))

    inside(action)
    auditor = signed_in(("auditor", "st-anna"))
    for text in (
        auditor.get("/administration/audit", headers=PAGE).text,
        auditor.get("/administration/audit/export/csv").text,
    ):
        assert "reader-of-st-anna" in text
        assert "reader-of-other-site" not in text
        assert "reader-of-None" not in text
    assert auditor.get("/administration/audit/verify").status_code == 403
