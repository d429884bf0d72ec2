"""What a process of the centre did, and what waits in the database → Prometheus text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lampyris.centre.database import Connection

_WAITING = """
    SELECT state, priority, count(*) AS scans,
           coalesce(extract(epoch FROM now() - min(updated)), 0)::float8 AS oldest_s
    FROM scan WHERE state IN ('open', 'queued', 'running') GROUP BY state, priority
"""


class Metrics:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.received = Counter("lampyris_chunk_bytes", "Bytes of chunks stored", registry=self.registry)
        self.answers = Counter(
            "lampyris_http_answers", "Requests by route and status", ("route", "status"), registry=self.registry
        )
        self.committed = Counter("lampyris_scans_committed", "Scans committed", ("priority",), registry=self.registry)
        self.ended = Counter("lampyris_tries", "Tries of scans by how they ended", ("state",), registry=self.registry)
        self.made = Counter(
            "lampyris_series_made", "Series by what computed their images", ("engine",), registry=self.registry
        )
        self.early_made = Counter("lampyris_early_made", "Things made before a commit", registry=self.registry)
        self._early = Counter(
            "lampyris_early", "Things made before a commit that a scan asked for", ("found",), registry=self.registry
        )
        self.station_seconds = Histogram(
            "lampyris_station_seconds",
            "Seconds at each station",
            ("station",),
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
            registry=self.registry,
        )
        self._slots = Gauge(
            "lampyris_gpu_slots", "Cards that this worker holds", ("card", "state"), registry=self.registry
        )
        labels = ("state", "priority")
        self._scans = Gauge("lampyris_scans", "Scans that have not ended", labels, registry=self.registry)
        self._oldest = Gauge(
            "lampyris_oldest_seconds", "Seconds since the oldest of them changed", labels, registry=self.registry
        )

    def hold(self, card: int, *, busy: bool = False) -> None:
        """This worker holds a card, and computes on it or not."""
        self._slots.labels(str(card), "busy").set(busy)
        self._slots.labels(str(card), "free").set(not busy)

    @contextmanager
    def computing(self, card: int) -> Iterator[None]:
        """While this lasts the card is busy."""
        self.hold(card, busy=True)
        try:
            yield
        finally:
            self.hold(card)

    def early_used(self, hits: int, misses: int) -> None:
        """A committed scan that was begun early found so much of what could have been made, and so much not."""
        self._early.labels("hit").inc(hits)
        self._early.labels("miss").inc(misses)

    async def text(self, connection: Connection) -> bytes:
        """Everything, with what the database says of the queues now."""
        cursor = await connection.execute(_WAITING)
        rows: list[dict[str, Any]] = await cursor.fetchall()
        self._scans.clear()
        self._oldest.clear()
        for row in rows:
            self._scans.labels(row["state"], row["priority"]).set(row["scans"])
            self._oldest.labels(row["state"], row["priority"]).set(row["oldest_s"])
        return generate_latest(self.registry)
