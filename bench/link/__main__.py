"""`python -m bench.link [--loopback] [--write]`: a scan on a line, beside a plain PUT and tus.

On loopback, to see what a process of the interface takes in; then over a line of 50 Mbit/s with a round trip of 80 ms
that loses one packet in a hundred, with and without a break of all connections every 20 s. The line needs Linux and the
rights of root (see `bench.link.line`); `--loopback` leaves it out.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.link import loopback
from bench.link.line import CENTRE, Carried, Ends, Line, inside, lines
from bench.link.place import Brought, Server, brought, enrolled, packed, peers
from bench.province.page import head
from bench.running import running
from lampyris.site.config import CentreLink

PLACE = Path("docs/evidence/link.md")
PORT, PEERS_PORT = 8470, 8471
LINE, SEED = Line(), 20261121
BREAK_S = 20.0
_SLOW = CentreLink("https://centre.example", link_mbit_per_s=LINE.mbit_per_s)
_WAYS = (
    "`ours`: the site's agent with a scan packed in its spool, from its start until the centre has committed; chunks",
    f"of 8 MiB, on the line of {_SLOW.chunk_bytes >> 20} as the agent cuts them for its speed. `put`: the whole file",
    "in one PUT (httpx), begun again after a break. `tus`: tuspy to tuspyserver in pieces of 8 MiB, on where the",
    "server ended. All servers are FastAPI on granian, one process, and sync before they answer; ours alone hashes,",
    "signs, asks a database. A gigabyte is 1000 megabytes.",
)
_LOOPBACK = (
    f"No TLS; the median of {loopback.REPEATS}. Bytes that nothing makes smaller, into a folder on this disk.",
)
_LINE = (
    f"{LINE.mbit_per_s:g} Mbit/s, a round trip of {1000 * LINE.round_trip_s:g} ms, {100 * LINE.loss:g} % of packets",
    f"lost in either direction, a queue of {1000 * LINE.queue_s:g} ms: between two network namespaces whose packets",
    "all pass through `bench/link/line.py`. The kernel's TCP with the named congestion control, TLS on top; `ours`",
    "asks for BBR by itself, `ours-system` does not.",
    f"With breaks, every connection ends each {BREAK_S:g} s. What was carried is TCP's payload that arrived, so what",
    "was sent again is in it; a break is met by a client as an error.",
)
CASES = {"cubic": ("ours", "ours-system", "put", "tus"), "bbr": ("put", "tus")}
"""Which ways are tried with which control."""


@dataclass(frozen=True, slots=True)
class Run:
    """One way over the line: what the client told (None: not done in time), and what the line carried to the centre."""

    kind: str
    breaks: bool
    told: Brought | None
    carried: Carried


def over(congestion: str, megabytes: int, limit_s: float, broken: tuple[bool, ...]) -> Iterator[Run]:
    """Every way that is tried with a control, which is that of both ends."""
    with (
        tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as place,
        lines(LINE, SEED, congestion) as ends,
    ):
        folder, source = Path(place), Path(place) / "scan"
        loopback.write_random(source, megabytes)
        tls = certificate(folder)
        options, url = ["--tls-cert", str(tls[0]), "--tls-key", str(tls[1])], f"https://{CENTRE}:{PORT}"
        at = inside(ends.site)
        with (
            running(folder / "centre", url) as centre,
            peers(folder / "peers", CENTRE, PEERS_PORT, before=inside(ends.centre), tls=options) as other,
        ):
            pid = centre.interface(CENTRE, PORT, before=inside(ends.centre), tls=options)
            our, their = Server(url, pid, centre.database), Server(f"https://{CENTRE}:{PEERS_PORT}", other)
            site = enrolled(centre, folder / "st-anna", url, before=at, ca=tls[0])
            warm = folder / "warm"
            warm.write_bytes(b"warm")
            brought("put", their, warm, before=at, ca=tls[0], limit_s=60.0)
            for breaks in broken:
                for kind in CASES[congestion]:
                    server, what = their, source
                    if kind.startswith("ours"):
                        server, what = our, folder / "st-anna"
                        packed(site, what, source, _SLOW.chunk_bytes)
                    ends.carried()
                    with breaking(ends, breaks):
                        told = brought(kind, server, what, before=at, ca=tls[0], limit_s=limit_s)
                    yield Run(kind, breaks, told, ends.carried()[0])


@contextmanager
def breaking(ends: Ends, wanted: bool) -> Iterator[None]:
    """While this lasts, all connections end every 20 s, if that is wanted."""
    done = threading.Event()

    def break_off() -> None:
        while not done.wait(BREAK_S):
            ends.break_connections()

    thread = threading.Thread(target=break_off)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if wanted:
            thread.join()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of the centre's address, good for a day, and its key."""
    pem, key = folder / "centre.pem", folder / "centre.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", "/CN=centre", "-addext", f"subjectAltName=IP:{CENTRE}", "-out", str(pem), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


def row(control: str, run: Run, megabytes: int, limit_s: float) -> str:
    carried = run.carried.payload / 1e6
    if run.told is None:
        rate = carried / limit_s
        cells = [f"not done in {limit_s:.0f}", f"{8 * rate:.1f} carried", "", f"{carried:.1f}", "", ""]
    else:
        rate = 8 * megabytes / run.told.seconds
        share = f"{100 * rate / LINE.mbit_per_s:.0f}"
        cells = [f"{run.told.seconds:.1f}", f"{rate:.1f}", share, f"{carried:.1f}", f"{carried - megabytes:.1f}"]
        cells.append(str(run.told.breaks))
    breaks = f"every {BREAK_S:.0f} s" if run.breaks else "none"
    lost = 100 * run.carried.lost / max(1, run.carried.lost + run.carried.payload // 1448)
    return f"| {control} | {breaks} | {run.kind} | {' | '.join(cells)} | {lost:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.link", description=__doc__)
    parser.add_argument("--loopback", action="store_true", help="no line")
    parser.add_argument("--megabytes", type=int, default=1500, help="on loopback (default 1500)")
    parser.add_argument("--line-megabytes", type=int, default=160, help="over the line (default 160)")
    parser.add_argument("--limit-s", type=float, default=75.0, help="patience with one file on the line (default 75)")
    parser.add_argument("--write", action="store_true", help=f"keep the page as {PLACE}")
    chosen = parser.parse_args()
    called = " ".join(["python -m bench.link", *sys.argv[1:]])
    lines_ = ["# A scan on a line", "", *head(called), *_WAYS, "", "## Loopback", "", *_LOOPBACK, ""]
    lines_ += loopback.table(loopback.measured(chosen.megabytes), chosen.megabytes)
    if not chosen.loopback:
        lines_ += ["", "## A line", "", *_LINE, "", *line_table(chosen)]
    print("\n".join(lines_))
    if chosen.write:
        PLACE.write_text("\n".join(lines_) + "\n", "utf-8")


def line_table(chosen: argparse.Namespace) -> list[str]:
    names = ("control", "breaks", "way", "s", "Mbit/s", "% of the line", "MB carried", "MB more than the file")
    names += ("breaks met", "% of packets lost")
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for control in CASES:
        for run in over(control, chosen.line_megabytes, chosen.limit_s, (False, True)):
            rows.append(row(control, run, chosen.line_megabytes, chosen.limit_s))
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()
