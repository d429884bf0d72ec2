"""Every process is killed at every named point of the journey, also behind a bad line: each scan arrives once, whole.

Real processes: the interface under granian, the worker and its hand, PostgreSQL, the site's agent. What is killed is
started again at once, as systemd does; the agent's clock runs fast, so that nobody waits in earnest.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fatal import POINTS
from house import House
from schedule import random_line
from toxic import bad_line

OWN = {role: [point for point in POINTS if point.startswith(role)] for role in ("site", "api", "worker", "hand")}
VICTIMS = {
    **dict.fromkeys(("site", "api", "worker", "database"), POINTS),
    "hand": (*OWN["hand"], "worker finishing", "worker finished"),  # before that there is none
}
HARDEST = {
    "site": OWN["site"],  # which is started again in no time
    "api": ["api noted", "api enqueued", "api committed", "api acknowledging"],
    "worker": ["worker started", "worker finishing", "worker finished"],
    "hand": ["hand fetched", "hand stored"],
    "database": ["api enqueued", "worker finishing", "api acknowledged"],
}
"""Within a transaction, or when something was done and nobody was told: what CI has time for."""


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Outside of pytest's folders: run by root, PostgreSQL is another user, and every pytest shuts that one out."""
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        found = House(Path(folder))
        try:
            found.open()
            yield found
        finally:
            found.close()


def killed(house: House, name: str, fuses: dict[str, str]) -> set[str]:
    """One scan passes points where processes die, and all is as it should be: the points where one did die."""
    house.fuses.light(fuses)
    house.check(house.bring_home({name: "routine"}))
    assert house.fuses.lit() == set(), "points that the scan did not come by"
    return house.fuses.killed()


@pytest.mark.parametrize("role", HARDEST)
def test_killed_where_it_is_hardest_a_process_loses_nothing(house, role):
    assert killed(house, f"hard {role}", dict.fromkeys(HARDEST[role], role)) == set(HARDEST[role])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_every_point_of_the_journey_a_process_loses_nothing(house, victim):
    assert killed(house, f"all {victim}", dict.fromkeys(VICTIMS[victim], victim)) == set(VICTIMS[victim])


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 42))])
def test_kills_and_a_bad_line_together_lose_nothing(house, seed):
    """Two scans over a line that is bad in several ways, while processes die at points by chance."""
    rng = random.Random(f"both {seed}")
    fuses = {
        point: rng.choice([victim for victim, points in VICTIMS.items() if point in points])
        for point in rng.sample(POINTS, 4)
    }
    line = random_line(rng)
    print(f"seed {seed}: {line}, killed {fuses}")  # noqa: T201 - shown when it fails
    house.fuses.light(fuses)
    with bad_line(house.port, line, seed) as proxy:
        house.check(house.bring_home({f"{seed}a": "routine", f"{seed}b": "stat"}, proxy.port))
    print(f"met {dict(proxy.met)}, died at {house.fuses.killed()}")  # noqa: T201
