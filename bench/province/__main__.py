"""`python -m bench.province [--sites N] [--rate R] [--minutes M] … [--write]`: a province on this machine.

Simulated sites speak the agent's protocol to one process of the interface, one PostgreSQL and workers whose
reconstruction is a pause. First a load that lasts, then routine scans beyond what workers can do, for the sake of STAT;
then what single requests cost, what ingest costs, and from both what a province would need.
"""

import argparse
import asyncio
import dataclasses
import random
import resource
import sys
import tempfile
from pathlib import Path

from bench.gpu.figures import Figures
from bench.link import loopback
from bench.province import page
from bench.province.costs import Price, prices
from bench.province.load import Load, Phase, Province
from bench.province.model import Assumed
from bench.running import await_answer, free_port, running

PLACE = Path("docs/evidence/province.md")
WARM_S = 30.0
LEFT = 10
"""Workers that are left when there is to be too much work, none of them reserved."""


async def whole(
    load: Load, minutes: float, crowded_s: float, repeats: int
) -> tuple[float, list[Phase], dict[str, Price]]:
    """Seconds to enrol all sites, the phases, and the prices."""
    port, rng = free_port(), random.Random(20261121)
    with (
        tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder,
        running(Path(folder), f"http://127.0.0.1:{port}") as centre,
    ):
        interface = centre.interface("127.0.0.1", port)
        await asyncio.to_thread(await_answer, f"http://127.0.0.1:{port}/readyz")
        crowd = Province(centre, port, interface, load, rng)
        try:
            enrolled = await crowd.enrol()
            await crowd.phase("warm", WARM_S, stat_share=load.stat_share)
            phases = [await crowd.phase("sustained", 60 * minutes, stat_share=load.stat_share)]
            crowd.dismiss(LEFT)
            share = LEFT / load.job_s / load.rate / 2  # half of what the workers left can do is STAT
            phases.append(await crowd.phase("crowded", crowded_s, stat_share=share, awaited=("stat",)))
            crowd.dismiss(0)
            await asyncio.sleep(2 * load.job_s)
            site = next(one for one in crowd.sites if one.home is not None)
            found = await prices(centre, interface, site, repeats, load.chunk_bytes)
        finally:
            await crowd.end()
    return enrolled, phases, found


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.province", description=__doc__)
    for field in dataclasses.fields(Load):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the load that lasts (default 10)")
    parser.add_argument("--crowded-s", type=float, default=90.0, help="of too much work (default 90)")
    parser.add_argument("--repeats", type=int, default=400, help="of every request that is priced (default 400)")
    parser.add_argument("--megabytes", type=int, default=1500, help="of the scan whose ingest is measured")
    parser.add_argument("--gpu", type=Path, metavar="FILE", help="figures of a card, of `python -m bench.gpu --write`")
    parser.add_argument("--write", action="store_true", help=f"keep the page as {PLACE}")
    chosen = parser.parse_args()
    gpu = None if chosen.gpu is None else Figures.read(chosen.gpu)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    load = Load(**{field.name: getattr(chosen, field.name) for field in dataclasses.fields(Load)})
    called = " ".join(["python -m bench.province", *sys.argv[1:]])
    ingest = loopback.measured(chosen.megabytes, kinds=("ours",))["ours"]
    enrolled, phases, found = asyncio.run(whole(load, chosen.minutes, chosen.crowded_s, chosen.repeats))
    lines = ["# A province on this machine", "", *page.head(called), *page.load(load)]
    lines += [f"All sites were enrolled in {enrolled:.1f} s ({load.sites / enrolled:.0f} a second).", ""]
    lines += ["## Scans", "", *page.scans(phases), "", page.patience(phases[1], LEFT), ""]
    lines += ["## Requests, sustained", "", *page.requests(phases[0]), ""]
    lines += ["## Processes, sustained", "", *page.processes(phases[0]), ""]
    lines += ["## What a request costs", "", *page.priced(found), ""]
    lines += ["## Ingest", "", *loopback.table({"ours": ingest}, chosen.megabytes), ""]
    lines += ["## A province on paper", "", *page.province(Assumed(), found, ingest, chosen.megabytes, gpu)]
    print("\n".join(lines))
    if chosen.write:
        PLACE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
