"""A link that drops, lies, stalls and asks for patience: everything arrives once, and nothing is given up."""

import random
import socket
import threading
from email.utils import formatdate

import httpx
import pytest
from conftest import rounds
from fake_centre import AUDIENCE, Cut, problem
from hypothesis import given
from hypothesis import strategies as st

from lampyris.model import InputError, MachineError
from lampyris.site import Site, client, enrol
from lampyris.site.config import CentreLink
from lampyris.site.exchange import Backoff, Bucket, Link, LinkError, Refusal
from lampyris.site.exchange.link import steadfast


def only(found):
    (one,) = found
    return one


class Faulty:
    """A share of requests fails, each in one of many ways; the seed is that of the schedule."""

    def __init__(self, seed: int, share: float) -> None:
        self.rng, self.share, self.made = random.Random(seed), share, 0

    def __call__(self, request: httpx.Request) -> httpx.Response | None:
        if self.rng.random() >= self.share:
            return None
        self.made += 1
        kind = self.rng.randrange(8)
        if kind == 0:
            raise httpx.ConnectError("no route to host")
        if kind == 1:
            raise httpx.ReadTimeout("half open")
        if kind == 2:
            return httpx.Response(200, stream=Cut(b'{"miss'))
        if kind == 3:
            return httpx.Response(200, content=b"<html>Please sign in to the hotel's network</html>")
        if kind == 4:
            return problem(503, "WAIT", retry=True, **{"Retry-After": "7"})
        if kind == 5:
            return problem(500, "PROGRAM", retry=True)
        if kind == 6:
            return httpx.Response(403, content=b"the firewall says no")
        return problem(401, "TOKEN")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_third_of_all_requests_fails_and_everything_arrives_once(
    agent, centre, drop, series, config, small_chunks, seed, when
):
    """`after`: the centre did what it was asked, and the answer is lost."""
    drop()
    drop("b.lraw", priority="stat")
    faulty = Faulty(seed, 0.33)
    getattr(centre, when).append(faulty)
    rounds(agent, 200, until=lambda: len(agent.spool.having("committed")) == 2)
    assert {held["state"] for held in centre.scans.values()} == {"queued"}, f"seed {seed}"
    assert len(centre.scans) == 2
    assert {held["commits"] for held in centre.scans.values()} == {1}
    for scan in list(centre.scans):
        centre.reconstruct(scan, series(centre, scan))
    rounds(agent, 200, until=lambda: not agent.spool.entries())
    assert list(agent.spool.entries()) == [], f"seed {seed}"
    assert set(centre.acknowledged) == set(centre.scans)
    assert len(list(config.pacs[0].folder.rglob("*.dcm"))) == 6
    assert faulty.made > 5


def test_three_days_without_a_line_lose_nothing(agent, centre, drop, clock):
    centre.before.append(lambda request: (_ for _ in ()).throw(httpx.ConnectError("cut")))
    clock.step = 3600.0
    for name in ("a.lraw", "b.lraw", "c.lraw"):
        drop(name, recipe=name[0])
        rounds(agent, 8)
    agent.beat()
    assert "no answer" in agent.link.trouble
    assert len(agent.spool.having("packed")) == 3
    centre.before.clear()
    rounds(agent, 20)
    assert len(agent.spool.having("committed")) == 3
    assert agent.link.trouble is None


def test_a_break_costs_no_chunk_twice(agent_of, config, centre, drop, small_chunks):
    """What the centre has is not sent again, neither after a lost line nor after a restart."""
    drop()
    puts = []

    def fails(request):
        if request.method == "PUT":
            puts.append(request.url.path)
            if len(puts) > 4:
                raise httpx.ReadError("cut")

    centre.before.append(fails)
    rounds(agent_of(config), 14)
    assert centre.put_bytes == sum(len(data) for data in only(centre.scans.values())["chunks"].values())
    centre.before.clear()
    rounds(agent_of(config), 14)
    assert only(centre.scans.values())["state"] == "queued"
    assert centre.put_bytes == len(centre.packed(only(centre.scans)))


def test_a_chunk_that_the_link_changed_is_sent_again(agent, centre, drop, small_chunks):
    wrong = iter([True, False, True])
    centre.before.append(
        lambda request: (
            problem(422, "CHUNK_DIGEST", retry=True) if request.method == "PUT" and next(wrong, False) else None
        )
    )
    drop()
    rounds(agent, 20)
    assert only(centre.scans.values())["state"] == "queued"


def test_a_returned_file_that_was_changed_or_cut_is_fetched_again(agent, centre, drop, series, config, site):
    drop()
    rounds(agent, 14)
    sent = only(centre.scans)
    files = series(centre, sent)
    centre.reconstruct(sent, files)
    ranges = []

    def lies(request):
        if "/series/ct_00002" in request.url.path:
            ranges.append(request.headers.get("range"))
            data = files["ct_00002.dcm"]
            if len(ranges) == 1:
                return httpx.Response(200, stream=Cut(data[:300]))
            if len(ranges) == 2:
                return httpx.Response(206, content=data[300:-1] + bytes([data[-1] ^ 1]))
            if len(ranges) == 3:
                return httpx.Response(200, content=data + b"more than was promised")
        return None

    centre.before.append(lies)
    rounds(agent, 30)
    assert ranges[:3] == [None, "bytes=300-", None]
    assert len(ranges) > 3
    assert (config.pacs[0].folder / sent / "ct_00002.dcm").exists()
    assert centre.acknowledged[sent] == 1


def test_a_list_of_returns_has_pages(agent, centre, drop, series, monkeypatch):
    monkeypatch.setattr("lampyris.site.exchange.returns._PAGE", 2)
    for number in range(3):
        drop(f"{number}.lraw", recipe=f"r{number}")
    rounds(agent, 14)
    for scan in list(centre.scans):
        centre.reconstruct(scan, series(centre, scan, images=1))
    rounds(agent, 20)
    assert len(centre.acknowledged) == 3


def test_a_series_that_was_made_anew_meanwhile_is_fetched_anew(agent, centre, drop, series, config):
    drop()
    rounds(agent, 14)
    sent = only(centre.scans)
    centre.reconstruct(sent, series(centre, sent))
    again = [True]

    def remade(request):
        if request.url.path.endswith("/acknowledge") and again:
            again.clear()
            centre.reconstruct(sent, series(centre, sent, images=2))
        return

    centre.before.append(remade)
    rounds(agent, 30)
    assert len(list((config.pacs[0].folder / sent).glob("*.dcm"))) == 2


@pytest.fixture
def link(site, centre, config, now):
    return Link(client(config.centre, centre.transport()), site, now=now)


def test_a_token_is_used_until_shortly_before_it_ends(link, centre, now):
    for seconds in (0, 200, 60, 15):
        now.at += seconds
        link.object("GET", "/returns", params={"after": 0, "limit": 1})
    assert centre.asked.count("POST /v1/token") == 2


@pytest.mark.parametrize(
    ("answer", "kind", "wait_s"),
    [
        (problem(503, "WAIT", retry=True, **{"Retry-After": "30"}), LinkError, 30.0),
        (problem(429, "WAIT", retry=True, **{"Retry-After": "2"}), LinkError, 2.0),
        (httpx.Response(503, headers={"Retry-After": formatdate(1.8e9 + 40, usegmt=True)}), LinkError, 40.0),
        (problem(503, "WAIT", retry=True, **{"Retry-After": "soon"}), LinkError, None),
        (problem(500, "PROGRAM", retry=True), LinkError, None),
        (problem(408, "SLOW"), LinkError, None),
        (httpx.Response(404, content=b"nginx"), LinkError, None),
        (httpx.Response(302, headers={"Location": "https://portal.example"}), LinkError, None),
        (problem(409, "CONFLICT"), Refusal, None),
        (problem(422, "INPUT_MANIFEST"), Refusal, None),
    ],
)  # fmt: skip
def test_an_answer_says_whether_to_wait_or_to_give_up(link, centre, answer, kind, wait_s):
    link.object("GET", "/returns", params={"after": 0, "limit": 1})
    centre.before.append(lambda request: answer)
    with pytest.raises(kind) as found:
        link.status("GET", f"/scans/{'a' * 32}")
    assert getattr(found.value, "wait_s", None) == wait_s


def test_a_site_whose_key_was_taken_back_says_so(link, centre):
    centre.before.append(lambda request: problem(401, "TOKEN") if request.url.path == "/v1/token" else None)
    with pytest.raises(LinkError, match="does not know this site's key"):
        link.status("GET", f"/scans/{'a' * 32}")


@given(seed=st.integers(0, 2**32), failures=st.integers(1, 200))
def test_patience_doubles_to_a_minute_with_a_quarter_of_chance(seed, failures):
    backoff = Backoff(random.Random(seed))
    waits = [backoff.failed() for _ in range(failures)]
    for number, wait in enumerate(waits):
        steady = min(60.0, 2.0**number)
        assert 0.75 * steady <= wait <= 1.25 * steady
    assert backoff.failed(17.0) == 17.0
    backoff.succeeded()
    assert backoff.failed() <= 1.25


@given(sizes=st.lists(st.integers(1, 65536), min_size=1, max_size=200), rate=st.integers(10_000, 10_000_000))
def test_a_limit_is_kept_but_for_one_second_in_store(sizes, rate):
    at = [0.0]

    def sleep(seconds: float) -> None:
        at[0] += seconds

    bucket = Bucket(rate, clock=lambda: at[0], sleep=sleep)
    for size in sizes:
        bucket.take(size)
    owed = max(0.0, sum(sizes) - rate) / rate
    assert at[0] == pytest.approx(owed, rel=1e-6, abs=1e-6)


def test_enrolment_can_be_repeated_after_a_lost_answer(config, centre, now):
    centre.codes["0123456789ABCDEFGHJK"] = ""
    code = "O123 456789ABCDEFGHJK"
    with client(config.centre, centre.transport()) as http:
        centre.after.append(lambda request: (_ for _ in ()).throw(httpx.ReadError("cut")))
        with pytest.raises(MachineError, match="nothing was enrolled"):
            enrol(http, config.folder, code, now=now)
        centre.after.clear()
        made = enrol(http, config.folder, code, now=now)
    assert len(centre.keys) == 1
    assert made.enrolment.audience == AUDIENCE
    assert Site.load(config.folder).key.key_id == only(centre.keys)


def test_a_used_code_is_refused_and_a_page_of_a_portal_is_no_enrolment(config, centre, now):
    centre.codes["0123456789ABCDEFGHJK"] = "another key"
    with client(config.centre, centre.transport()) as http:
        with pytest.raises(InputError, match="CODE_USED"):
            enrol(http, config.folder, "0123456789ABCDEFGHJK", now=now)
        centre.before.append(lambda request: httpx.Response(201, content=b"<html>"))
        with pytest.raises(MachineError, match="no enrolment"):
            enrol(http, config.folder, "0123456789ABCDEFGHJK", now=now)
    with pytest.raises(InputError, match="not enrolled"):
        Site.load(config.folder)


def test_a_machine_without_bbr_is_asked_for_nothing(monkeypatch):
    class Refusing(socket.socket):
        def setsockopt(self, *_):
            raise OSError("no such control")

    monkeypatch.setattr(socket, "socket", Refusing)
    assert steadfast() == []


@pytest.mark.skipif(not steadfast(), reason="this machine has no BBR, or does not let us use it")
def test_every_connection_to_the_centre_keeps_its_speed_when_packets_are_lost():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 204 \r\n\r\n")
                connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        with client(CentreLink(f"http://127.0.0.1:{port}")) as http, http.stream("GET", "/") as found:
            used = found.extensions["network_stream"].get_extra_info("socket")
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"bbr"
        thread.join()
