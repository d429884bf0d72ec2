"""Loopback, no TLS → megabytes a second into a folder store, digests and syncs included; beside a plain PUT and tus."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.link.place import Brought, Server, brought, enrolled, packed, peers
from bench.running import await_answer, free_port, running

REPEATS = 3
_LIMIT_S = 300.0


def measured(megabytes: int, kinds: Sequence[str] = ("ours", "put", "tus")) -> dict[str, list[Brought]]:
    """Every way, `REPEATS` times."""
    found: dict[str, list[Brought]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as place:
        folder, source = Path(place), Path(place) / "scan"
        write_random(source, megabytes)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with running(folder / "centre", url) as centre:
            server = Server(url, centre.interface("127.0.0.1", port), centre.database)
            await_answer(f"{url}/readyz")
            site = enrolled(centre, folder / "st-anna", url)
            for _ in range(REPEATS):
                packed(site, folder / "st-anna", source)
                found["ours"].append(_done(brought("ours", server, folder / "st-anna", limit_s=_LIMIT_S)))
        if set(kinds) == {"ours"}:
            return found
        port = free_port()
        with peers(folder / "peers", "127.0.0.1", port) as pid:
            server = Server(f"http://127.0.0.1:{port}", pid)
            await_answer(f"{server.url}/healthz")
            for kind in [one for one in kinds if one != "ours"]:
                for _ in range(REPEATS):
                    found[kind].append(_done(brought(kind, server, source, limit_s=_LIMIT_S)))
    return found


def write_random(path: Path, megabytes: int) -> None:
    """Bytes that nothing makes smaller."""
    with Path("/dev/urandom").open("rb") as source, path.open("wb") as target:
        for _ in range(megabytes):
            target.write(source.read(1_000_000))


def table(found: dict[str, list[Brought]], megabytes: int) -> list[str]:
    """One row a way: the median of the repeats."""
    rows = [
        "| way | s | MB/s | client CPU s/GB | server CPU s/GB | database CPU s/GB |",
        "|---|---|---|---|---|---|",
    ]
    for kind, all_of_it in found.items():
        gigabytes = megabytes / 1000
        middle = [
            statistics.median(getattr(one, name) for one in all_of_it)
            for name in ("seconds", "client_s", "server_s", "database_s")
        ]
        costs = " | ".join(f"{value / gigabytes:.2f}" for value in middle[1:])
        rows.append(f"| {kind} | {middle[0]:.2f} | {megabytes / middle[0]:.0f} | {costs} |")
    return rows


def _done(one: Brought | None) -> Brought:
    if one is None:
        raise TimeoutError(f"a client took longer than {_LIMIT_S:g} s on loopback")
    return one


if __name__ == "__main__":
    import sys

    size = int(sys.argv[1])
    print("\n".join(table(measured(size), size)))
