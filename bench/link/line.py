"""Two network namespaces → a line between them that is narrow, far and loses packets; every packet passes through here.

The kernel's own TCP runs at both ends, so what is measured is what its congestion control makes of such a line. Needs
Linux, `ip`, `ss` and the rights of root. A packet waits for its turn at the narrow place (and is dropped when the queue
there is full), may be lost on the way, and arrives after the delay.
"""

import contextlib
import fcntl
import multiprocessing
import os
import random
import select
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

SITE, CENTRE = "10.77.0.1", "10.77.0.2"
_TUNSETIFF, _TUN, _NO_PI = 0x400454CA, 0x0001, 0x1000
_TCP = 6
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
_AT_ONCE = 64
_LARGEST = 2048


@dataclass(frozen=True, slots=True)
class Line:
    """The same in both directions. `queue_s` is the time that the full queue at the narrow place takes to empty."""

    mbit_per_s: float = 50.0
    round_trip_s: float = 0.080
    loss: float = 0.01
    queue_s: float = 0.1


@dataclass(slots=True)
class Carried:
    """What one direction carried: bytes of TCP's payload that arrived, packets lost on the way and for want of room."""

    payload: int = 0
    lost: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Ends:
    """The two namespaces, and how to ask what has passed."""

    site: str
    centre: str
    _told: Connection

    def carried(self) -> tuple[Carried, Carried]:
        """(from the site, to the site) since the last time it was asked."""
        self._told.send("carried")
        found: tuple[Carried, Carried] = self._told.recv()
        return found

    def break_connections(self) -> None:
        """End every TCP connection of the site at once, as a change of address does."""
        subprocess.run([*inside(self.site), "ss", "-K", "-t", "-n"], check=True, stdout=subprocess.DEVNULL)


def inside(namespace: str) -> list[str]:
    """What goes before a command that is to run in a namespace."""
    return ["ip", "netns", "exec", namespace]


@contextmanager
def lines(line: Line, seed: int, congestion: str) -> Iterator[Ends]:
    """Both namespaces and the line between them; `congestion` is their TCP's control unless it is told otherwise."""
    names = (f"site{os.getpid()}", f"centre{os.getpid()}")
    with contextlib.ExitStack() as undone:
        undone.enter_context(_allowed(congestion))
        devices = []
        for name, own, other in ((names[0], SITE, CENTRE), (names[1], CENTRE, SITE)):
            _ip("netns", "add", name)
            undone.callback(_ip, "netns", "delete", name)
            devices.append(_device(name, own, other))
            undone.callback(os.close, devices[-1])
            setting = f"net.ipv4.tcp_congestion_control={congestion}"
            subprocess.run([*inside(name), "sysctl", "-q", "-w", setting], check=True)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_carry, args=(devices, line, random.Random(seed), there), daemon=True
        )
        process.start()
        undone.callback(process.join)
        undone.callback(here.send, "end")
        yield Ends(*names, here)


@contextmanager
def _allowed(congestion: str) -> Iterator[None]:
    """While this lasts, namespaces may have that control; the list is the machine's, so it is put back."""
    before = _ALLOWED.read_text()
    _ALLOWED.write_text(" ".join(sorted({*before.split(), congestion})))
    try:
        yield
    finally:
        _ALLOWED.write_text(before)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _device(namespace: str, own: str, other: str) -> int:
    """A point-to-point device in a namespace, and the handle at which its packets come out and go in."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"line{own[-1]}x{os.getpid() % 100000}"
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN | _NO_PI))
    _ip("link", "set", name, "netns", namespace)
    _ip("-n", namespace, "address", "add", own, "peer", other, "dev", name)
    _ip("-n", namespace, "link", "set", name, "up")
    _ip("-n", namespace, "link", "set", "lo", "up")
    return handle


def _carry(devices: list[int], line: Line, rng: random.Random, asked: Connection) -> None:
    """Pass packets on until told to end."""
    rate, delay = line.mbit_per_s * 1e6 / 8, line.round_trip_s / 2
    flying: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
    free = [0.0, 0.0]
    counts = (Carried(), Carried())
    poller = select.epoll()
    for handle in (*devices, asked.fileno()):
        poller.register(handle, select.EPOLLIN)
    while True:
        now = time.monotonic()
        for side in (0, 1):
            _deliver(flying[side], devices[1 - side], now, counts[side])
        due = min((queue[0][0] for queue in flying if queue), default=now + 1.0)
        for handle, _ in poller.poll(max(0.0, due - now)):
            if handle == asked.fileno():
                if asked.recv() == "end":
                    return
                asked.send(counts)
                counts = (Carried(), Carried())
                continue
            side = devices.index(handle)
            for packet in _read(handle):
                now = time.monotonic()
                begins = max(now, free[side])
                if begins - now > line.queue_s:
                    counts[side].dropped += 1
                    continue
                free[side] = begins + len(packet) / rate
                if rng.random() < line.loss:
                    counts[side].lost += 1
                else:
                    flying[side].append((free[side] + delay, packet))


def _deliver(queue: "deque[tuple[float, bytes]]", handle: int, now: float, count: Carried) -> None:
    while queue and queue[0][0] <= now:
        packet = queue.popleft()[1]
        with contextlib.suppress(OSError):  # the device is going down
            os.write(handle, packet)
        count.payload += _payload(packet)


def _read(handle: int) -> Iterator[bytes]:
    for _ in range(_AT_ONCE):
        try:
            yield os.read(handle, _LARGEST)
        except BlockingIOError:
            return


def _payload(packet: bytes) -> int:
    """Bytes that a packet carries for TCP's user; 0 for anything but TCP over IPv4."""
    if packet[0] >> 4 != 4 or packet[9] != _TCP:
        return 0
    header = (packet[0] & 15) * 4
    return len(packet) - header - (packet[header + 12] >> 4) * 4
