"""Accounts, roles and tenants: who may change what of whom, and what the operator's command line does with them."""

import json

import pytest

from lampyris.centre.people import accounts, passwords, sessions, tenants, tokens
from lampyris.centre.people.accounts import Newcomer
from lampyris.centre.people.rules import MAY_GRANT, Role
from lampyris.centre.people.tenants import MACHINE, By
from lampyris.centre.refusals import Refusal
from lampyris.model import InputError

PASSWORD = "correct horse 电池"


@pytest.fixture
def tree(do, invite):
    """Two provinces: `west` with the county `left` and the site `st-anna` in it, `east` with `other-site`."""
    for name in ("st-anna", "other-site"):
        invite(name)

    async def plant(connection):
        for province in ("west", "east"):
            await tenants.create(connection, MACHINE, province, kind="province", name=province.title())
        await tenants.create(connection, MACHINE, "left", kind="county", name="左县", parent="west")
        await tenants.move(connection, MACHINE, "st-anna", "left")
        await tenants.move(connection, MACHINE, "other-site", "east")

    do(plant)


def as_(person: int, login: str) -> By:
    return By(login, person, "127.0.0.1")


def made(do, login: str, role: Role, tenant: str) -> By:
    async def run(connection):
        return await accounts.create(connection, MACHINE, Newcomer(login, login.title(), role, tenant))

    return as_(do(run), login)


def refused(do, action) -> int:
    with pytest.raises(Refusal) as found:
        do(action)
    return found.value.problem.status


def test_a_site_admin_gives_roles_of_care_at_their_site_and_nothing_else(do, tree):
    admin = made(do, "admin", Role.SITE_ADMIN, "st-anna")
    for role in Role:
        new = Newcomer(f"new-{role.replace('_', '-')}", "New", role, "st-anna")
        if role in (Role.OPERATOR, Role.AUDITOR):
            assert refused(do, lambda c, new=new: accounts.create(c, admin, new)) == 403
        else:
            assert do(lambda c, new=new: accounts.create(c, admin, new)) > 0
    for beyond in ("left", "west", "centre", "other-site", "nowhere"):
        new = Newcomer("beyond", "Beyond", Role.TECHNOLOGIST, beyond)
        assert refused(do, lambda c, new=new: accounts.create(c, admin, new)) == 404, beyond
    assert {each.login for each in do(lambda c: accounts.people(c, admin))} == {
        "admin", "new-technologist", "new-radiologist", "new-expert", "new-physicist", "new-site-admin"
    }  # fmt: skip


def test_nobody_makes_somebody_more_than_they_are():
    for role, given in MAY_GRANT.items():
        assert Role.OPERATOR not in given or role is Role.OPERATOR
        assert not given or role in given


def test_an_account_with_roles_elsewhere_is_not_in_the_hands_of_one_site(do, tree):
    admin = made(do, "admin", Role.SITE_ADMIN, "st-anna")
    for login, elsewhere in (("li", Role.RADIOLOGIST), ("wang", Role.OPERATOR)):
        made(do, login, Role.RADIOLOGIST, "st-anna")
        do(lambda c, login=login, role=elsewhere: accounts.grant(c, MACHINE, login, role, "other-site"))
        assert refused(do, lambda c, login=login: accounts.disable(c, admin, login)) == 403
        assert refused(do, lambda c, login=login: accounts.password_link(c, admin, login)) == 403
    shown = next(each for each in do(lambda c: accounts.people(c, admin)) if each.login == "li")
    assert [each.tenant for each in shown.granted] == ["st-anna"], "what it has elsewhere is not shown"
    made(do, "zhao", Role.RADIOLOGIST, "other-site")
    assert refused(do, lambda c: accounts.disable(c, admin, "zhao")) == 404
    assert refused(do, lambda c: accounts.disable(c, admin, "nobody")) == 404


def test_an_operator_of_a_province_ends_at_its_border(do, tree):
    west = made(do, "west-operator", Role.OPERATOR, "west")
    do(lambda c: accounts.create(c, west, Newcomer("li", "李 医生", Role.OPERATOR, "left")))
    do(lambda c: tenants.create(c, west, "right", kind="city", name="Right", parent="west"))
    assert [each.id for each in do(lambda c: tenants.tenants(c, west))] == ["west", "right", "left", "st-anna"]
    for parent in ("centre", "east"):
        assert refused(do, lambda c, parent=parent: tenants.move(c, west, "st-anna", parent)) == 404
    assert refused(do, lambda c: tenants.move(c, west, "other-site", "west")) == 404
    assert refused(do, lambda c: tenants.create(c, west, "x", kind="city", name="X", parent="east")) == 404
    assert refused(do, lambda c: tenants.rename(c, west, "other-site", "Mine")) == 404
    do(lambda c: tenants.rename(c, west, "st-anna", "St. Anna 医院"))


def test_a_county_is_not_above_a_province_and_the_centre_stays(do, tree):
    for wrong in (("west", "left"), ("centre", "east"), ("left", "st-anna")):
        with pytest.raises(InputError):
            do(lambda c, wrong=wrong: tenants.move(c, MACHINE, *wrong))
    with pytest.raises(InputError):
        do(lambda c: tenants.create(c, MACHINE, "Bad Name", kind="city", name="X"))
    with pytest.raises(InputError):
        do(lambda c: tenants.create(c, MACHINE, "west", kind="city", name="X"))


def test_nobody_gives_a_role_to_themselves_and_one_operator_stays(do, tree):
    first = made(do, "first", Role.OPERATOR, "centre")
    assert refused(do, lambda c: accounts.grant(c, first, "first", Role.RADIOLOGIST, "st-anna")) == 403
    with pytest.raises(InputError, match="last operator"):
        do(lambda c: accounts.take_back(c, first, "first", Role.OPERATOR, "centre"))
    with pytest.raises(InputError, match="themselves"):
        do(lambda c: accounts.disable(c, first, "first"))
    second = made(do, "second", Role.OPERATOR, "centre")
    do(lambda c: accounts.take_back(c, second, "first", Role.OPERATOR, "centre"))
    assert {each.login for each in do(lambda c: accounts.people(c, second))} == {"first", "second"}


def test_whoever_is_shut_out_loses_sessions_links_and_tokens_at_once(do, tree, rows, client):
    li = made(do, "li", Role.RADIOLOGIST, "st-anna")
    token = do(lambda c: tokens.issue(c, li, li.person, "script", 30))
    session = do(lambda c: sessions.begin(c, li.person, "127.0.0.1"))
    code = do(lambda c: accounts.password_link(c, MACHINE, "li"))
    do(lambda c: accounts.disable(c, MACHINE, "li"))
    assert rows("SELECT count(*) FROM session") == [(0,)]
    assert do(lambda c: passwords.linked(c, code)) is None
    do(lambda c: accounts.disable(c, MACHINE, "li", disabled=False))
    assert do(lambda c: passwords.linked(c, code)) is None
    assert token
    assert session


def test_a_password_is_chosen_by_a_link_that_is_good_once(do, tree, rows):
    li = made(do, "li", Role.RADIOLOGIST, "st-anna")
    first = do(lambda c: accounts.password_link(c, MACHINE, "li"))
    code = do(lambda c: accounts.password_link(c, MACHINE, "li"))
    assert do(lambda c: passwords.linked(c, first)) is None, "another link takes the place of the first"
    assert do(lambda c: passwords.linked(c, code)) == (li.person, "li", "password")
    assert (do(lambda c: passwords.use(c, code)), do(lambda c: passwords.use(c, code))) == (True, False)
    for wrong in ("short", "aaaaaaaaaaaaaaaa", "x" * 300):
        with pytest.raises(InputError):
            do(lambda c, wrong=wrong: passwords.choose(c, li.person, wrong))
    do(lambda c: passwords.choose(c, li.person, PASSWORD))
    assert do(lambda c: passwords.check(c, "li", PASSWORD)) == li.person
    for login, password in (("li", "another password"), ("nobody", PASSWORD), ("li\0", PASSWORD), ("LI", PASSWORD)):
        assert do(lambda c, login=login, password=password: passwords.check(c, login, password)) is None
    kept = str(rows("SELECT * FROM person")) + str(rows("SELECT * FROM link")) + str(rows("SELECT detail FROM audit"))
    assert PASSWORD not in kept
    assert code not in kept
    assert "$argon2id$" in kept


def test_every_change_is_in_the_audit_with_who_and_where(do, tree, rows):
    first = made(do, "first", Role.OPERATOR, "centre")
    do(lambda c: accounts.create(c, first, Newcomer("li", "Li", Role.RADIOLOGIST, "st-anna")))
    do(lambda c: accounts.take_back(c, first, "li", Role.RADIOLOGIST, "st-anna"))
    do(lambda c: accounts.disable(c, first, "li"))
    found = rows("SELECT detail->>'what', who, object, site, address FROM audit WHERE who = 'first' ORDER BY number")
    assert found == [
        ("person.create", "first", "li", None, "127.0.0.1"),
        ("role.grant", "first", "li", "st-anna", "127.0.0.1"),
        ("role.take_back", "first", "li", "st-anna", "127.0.0.1"),
        ("person.disable", "first", "li", None, "127.0.0.1"),
    ]


def test_the_operator_of_the_machine_makes_the_first_person(operate, rows):
    add = ("centre", "person", "add", "li", "--name", "李 医生", "--role", "operator", "--tenant", "centre")
    code, _, err = operate(*add, "--public-url", "https://ct.example")
    assert code == 0
    assert "https://ct.example/sign-in/once/" in err
    assert operate(*add)[0] == 65
    assert operate("centre", "tenant", "add", "west", "--kind", "province", "--name", "West")[0] == 0
    grant = ("--role", "auditor", "--tenant", "west")
    assert operate("centre", "person", "grant", "li", *grant)[0] == 0
    (found,) = json.loads(operate("centre", "person", "list", "--json")[1])
    granted = [(each["role"], each["tenant"]) for each in found["granted"]]
    assert granted == [("operator", "centre"), ("auditor", "west")]
    assert operate("centre", "person", "revoke", "li", *grant)[0] == 0
    assert operate("centre", "person", "grant", "li", "--role", "auditor", "--tenant", "none")[0] == 65
    assert operate("centre", "person", "disable", "li")[0] == 0
    assert operate("centre", "person", "disable", "li", "--undo")[0] == 0
    assert operate("centre", "person", "password", "nobody")[0] == 65
    assert [each["id"] for each in json.loads(operate("centre", "tenant", "list", "--json")[1])] == ["centre", "west"]
    assert operate("centre", "tenant", "move", "west", "--parent", "centre")[0] == 0
    assert rows("SELECT DISTINCT who FROM audit") == [("operator",)]


def test_a_machine_gets_a_token_and_no_password(operate, rows):
    add = ("centre", "person", "add", "orthanc", "--name", "Orthanc", "--role", "technologist", "--tenant", "centre")
    assert operate(*add, "--service")[0] == 0
    assert operate("centre", "person", "password", "orthanc")[0] == 65
    made = json.loads(operate("centre", "person", "token", "orthanc", "--for", "STOW", "--days", "7")[1])
    assert made["token"].startswith(tokens.PREFIX)
    assert made["token"] not in str(rows("SELECT * FROM access_token"))
    assert operate("centre", "person", "token", "orthanc", "--for", "STOW", "--days", "4000")[0] == 65
