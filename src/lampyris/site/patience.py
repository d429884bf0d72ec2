"""What failed → when it is tried again, and why it waits; each thing for itself."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lampyris.site.exchange import Backoff
from lampyris.site.store.spool import unseen


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an agent is given from outside: time of day, a clock that never jumps, chance, and who watches its steps."""

    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.SystemRandom)
    at: Callable[[str], None] = unseen


class Patience:
    """Who waits until when, and why. Safe to use from several threads."""

    def __init__(self, outside: Surroundings) -> None:
        self._outside = outside
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._why: dict[str, tuple[str, str]] = {}
        self._backoff: dict[str, Backoff] = {}

    def over(self, key: str) -> bool:
        with self._lock:
            return self._outside.clock() >= self._until.get(key, 0.0)

    def pause(self, key: str, seconds: float) -> None:
        with self._lock:
            self._until[key] = self._outside.clock() + seconds

    def failed(self, key: str, code: str, text: str, wait_s: float | None = None) -> float:
        with self._lock:
            wait = self._backoff.setdefault(key, Backoff(self._outside.rng)).failed(wait_s)
            self._until[key], self._why[key] = self._outside.clock() + wait, (code, text)
            return wait

    def succeeded(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                for each in (self._until, self._why, self._backoff):
                    each.pop(key, None)

    def tell(self, key: str, count: int) -> None:
        """A number that status shows while it is not zero."""
        with self._lock:
            self._why.pop(key, None)
            if count:
                self._why[key] = ("WAITING", f"{count} series at the centre belong to no scan in this spool")

    def reasons(self) -> dict[str, Any]:
        with self._lock:
            return {key: list(why) for key, why in self._why.items()}
