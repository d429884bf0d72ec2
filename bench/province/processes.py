"""Numbers of processes → processor seconds and memory of each, as Linux counts them."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds since the start, and bytes of memory.

    Memory is the proportional set size: a page that several share is divided among them.
    """

    cpu_s: float
    bytes: int


def family(pid: int) -> Iterator[int]:
    """A process and all that it started, and so on."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from family(int(child))


def cost(pids: Iterable[int]) -> Cost:
    """Of these processes together; one that ended meanwhile counts nothing."""
    cpu_s, size = 0.0, 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS
        size += next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
    return Cost(cpu_s, size)


def machine_cpu_s() -> tuple[float, float]:
    """Processor seconds of the whole machine since it started: (busy, all)."""
    fields = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / _TICKS, sum(fields) / _TICKS
