"""The bad line itself: what it is told to do to a stream it does, at places that its seed decides, and nothing else."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from toxic import Line, bad_line

SENT = random.Random(11).randbytes(300_001)


@contextmanager
def echo() -> Iterator[int]:
    """A service that sends back what it hears; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(65536):
                        connection.sendall(data)
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def through(port: int, data: bytes, *, patience_s: float = 20.0) -> tuple[bytes, str]:
    """What comes back of the data, and how it ended: "end", "reset" or "silence"."""
    found, ended = bytearray(), "end"
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as connection:

        def send() -> None:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        thread = threading.Thread(target=send)
        thread.start()
        try:
            while piece := connection.recv(65536):
                found += piece
        except TimeoutError:
            ended = "silence"
        except ConnectionError:
            ended = "reset"
        thread.join()
    return bytes(found), ended


def test_a_good_line_changes_nothing():
    with echo() as port, bad_line(port, Line(), 1) as proxy:
        assert through(proxy.port, SENT) == (SENT, "end")
        assert not proxy.met


def test_a_late_line_is_late_and_whole():
    """Twice the latency, there and back; a request is not slowed by its pieces waiting for one another."""
    with echo() as port, bad_line(port, Line(latency_s=0.15, waver_s=0.05), 2) as proxy:
        began = time.monotonic()
        assert through(proxy.port, SENT) == (SENT, "end")
        assert 0.3 <= time.monotonic() - began < 5.0


def test_a_narrow_line_carries_no_more_than_it_may():
    with echo() as port, bad_line(port, Line(bytes_per_s=600_000), 3) as proxy:
        began = time.monotonic()
        assert through(proxy.port, SENT) == (SENT, "end")
        assert time.monotonic() - began >= len(SENT) / 600_000


def test_lost_packets_cost_time_and_nothing_else():
    with echo() as port, bad_line(port, Line.losing(0.05, waver_s=0.001), 4) as proxy:
        began = time.monotonic()
        assert through(proxy.port, SENT) == (SENT, "end")
        assert proxy.met["stall"] > 2
        assert time.monotonic() - began >= 0.2 * proxy.met["stall"] / 2  # both directions stall at the same time


def test_a_flipped_bit_is_one_bit():
    with echo() as port, bad_line(port, Line(flip_bytes=100_000), 5) as proxy:
        found, ended = through(proxy.port, SENT)
        wrong = [one ^ other for one, other in zip(SENT, found, strict=True) if one != other]
        assert ended == "end"
        assert 0 < len(wrong) <= proxy.met["flip"]
        assert all(each & (each - 1) == 0 for each in wrong)


def test_a_reset_line_ends_in_the_middle():
    with echo() as port, bad_line(port, Line(reset_bytes=50_000), 6) as proxy:
        found, ended = through(proxy.port, SENT)
        assert ended == "reset"
        assert len(found) < len(SENT)
        assert SENT.startswith(found)


def test_a_dead_line_looks_open():
    with echo() as port, bad_line(port, Line(dead_bytes=50_000), 7) as proxy:
        found, ended = through(proxy.port, SENT, patience_s=1.0)
        assert ended == "silence"
        assert SENT.startswith(found)


def test_a_seed_puts_faults_at_the_same_places():
    """Whatever pieces TCP makes of the stream, and however it wavers; another seed, other places."""
    line = Line(flip_bytes=40_000, waver_s=0.002)

    def met(seed: int) -> bytes:
        with echo() as port, bad_line(port, line, seed) as proxy:
            return through(proxy.port, SENT)[0]

    first = met(8)
    assert met(8) == first
    assert met(9) != first


def test_a_service_that_is_not_there_is_a_reset():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with bad_line(port, Line(), 10) as proxy:
        assert through(proxy.port, b"anyone?")[0] == b""
