"""A generator of chance → a line that is bad in several ways at once."""

import random

from toxic import Line


def random_line(rng: random.Random) -> Line:
    """A scan and its series are about half a megabyte: each kind of fault that there is, is met some times."""

    def some(low: float, high: float) -> float:
        return rng.uniform(low, high) if rng.random() < 0.6 else float("inf")

    return Line(
        latency_s=rng.uniform(0.0, 0.02),
        waver_s=rng.uniform(0.0, 0.03),
        bytes_per_s=some(400_000, 4_000_000),
        stall_bytes=some(30_000, 300_000),
        stall_s=0.2,
        reset_bytes=some(60_000, 400_000),
        dead_bytes=some(200_000, 900_000),
        flip_bytes=some(60_000, 400_000),
    )
