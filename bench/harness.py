"""A case's name → wall seconds, processor seconds and peak memory, measured in a fresh process.

A case is a function without arguments that prepares its work and returns `(work, updates)`: `work` is called once to
warm up (compilation is measured there) and then `repeats` times; `updates` is voxels × views, None where it has no
meaning. What `work` returns last may be scored by the case's `score`.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

THREADS = "2"
LONG_S = 120
"""A first call that takes longer is the only one; what it compiled is then in its time."""
FENCES = {
    "NUMBA_NUM_THREADS": THREADS,
    "OMP_NUM_THREADS": THREADS,
    "OPENBLAS_NUM_THREADS": THREADS,
    "MKL_NUM_THREADS": THREADS,
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": THREADS,
    "MBIRJAX_NUM_CPU_DEVICES": "1",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one case cost: the median of its repeats, the first call, the peak of its process."""

    case: str
    wall_s: float
    cpu_s: float
    first_s: float
    peak_gib: float
    updates: float | None
    score: dict[str, float]
    repeats: int

    @property
    def giga_updates_per_s(self) -> float | None:
        return None if self.updates is None else self.updates / self.wall_s / 1e9


def measure(case: str, *, environment: dict[str, str] | None = None) -> Result | str:
    """Run `module:function` in a process of its own; a string says why there is no result."""
    settings = os.environ | FENCES | (environment or {})
    command = [sys.executable, "-m", "bench.harness", case]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"exit {done.returncode}: {last[:200]}"
    return Result(**json.loads(done.stdout.strip().splitlines()[-1]))


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main(case: str) -> None:
    """Measure one case here and print it as one line of JSON."""
    module, function = case.split(":")
    prepared = getattr(importlib.import_module(f"bench.{module}"), function)()
    work, updates = prepared[:2]
    score = prepared[2] if len(prepared) > 2 else None
    warm = _timed(work)
    first, _, result = warm
    repeats = 3 if first < LONG_S else 0
    times = [_timed(work) for _ in range(repeats)] or [warm]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    outcome = Result(
        case, statistics.median(t[0] for t in times), statistics.median(t[1] for t in times), first, peak, updates,
        {} if score is None else score(result), repeats,
    )  # fmt: skip
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(sys.argv[1])
