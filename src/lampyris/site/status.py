"""The files of a site's folder → what its operator wants to know: queue, link, age; without identity."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lampyris.model import FormatError, InputError, StorageError
from lampyris.site.agent import HEARTBEAT
from lampyris.site.config import Config
from lampyris.site.store import Entry, Spool, files

SILENT_S = 15.0
"""An agent that gave no sign of life for so long is taken to be stopped."""


def status(config: Config, *, now: Callable[[], float] = time.time, names: bool = False) -> dict[str, Any]:
    """JSON values: `agent` (running, age), `link`, `queue` (scans by state, bytes, age of the oldest) and `scans`.

    Paths of the sources, which may hold a patient's name, are left out unless `names`. Raises StorageError.
    """
    spool = Spool(config.folder / "spool", now=now)
    beat = _heartbeat(config.folder)
    waiting = beat.get("waiting", {})
    entries = spool.entries()
    scans = [found for entry in entries if (found := _scan(spool, entry, config, waiting, names=names)) is not None]
    records = spool.records()
    rejected = [
        {"scan": scan, "reason": place.reason, "age_s": now() - place.since}
        | ({"source": str(source.path)} if names else {})
        for scan, (place, source) in records.items()
        if place.state in ("rejected", "refused")
    ]
    under_way = [scan for scan in scans if scan["state"] not in ("refused", "rejected")]
    return {
        "agent": {"running": now() - beat.get("at", 0.0) < SILENT_S, "seen": beat.get("at")},
        "link": beat.get("link", {"last_answer": None, "trouble": None, "sent_bytes": 0}),
        "queue": {
            "by_state": dict(Counter(scan["state"] for scan in scans)),
            "bytes": sum(scan["bytes"] for scan in scans),
            "oldest_s": max((scan["age_s"] for scan in under_way), default=0.0),
        },
        "scans": scans,
        "waiting": {key: why for key, why in waiting.items() if key.partition(" ")[0] not in _scan_ids(scans)},
        "not_taken": rejected,
        "damaged": sorted(spool.damaged),
        "finished": sum(place.state == "delivered" for place, _ in records.values()),
    }


def _scan(
    spool: Spool, entry: Entry, config: Config, waiting: dict[str, list[str]], *, names: bool
) -> dict[str, Any] | None:
    """One scan in the spool; None when it was finished while we looked, or its files are damaged."""
    scan = entry.scan
    try:
        place = spool.place(scan)
        state: str = place.state
        if state == "returned" and spool.series(scan).verdict not in config.forward:
            state = "held"
    except FileNotFoundError:
        return None
    except InputError:
        spool.damaged.add(scan)
        return None
    reason = place.reason or waiting.get(scan) or waiting.get(f"{scan} up")
    found = {
        "scan": scan,
        "priority": entry.skeleton.priority,
        "state": state,
        "centre": place.centre,
        "reason": None if reason is None else list(reason),
        "bytes": spool.stored_bytes(scan),
        "age_s": spool.now() - entry.accepted,
        "coding": entry.coding[0],
    }
    return found | ({"source": str(entry.source.path)} if names else {})


def _scan_ids(scans: list[dict[str, Any]]) -> set[str]:
    return {str(scan["scan"]) for scan in scans}


def _heartbeat(folder: Path) -> dict[str, Any]:
    try:
        return files.read_json(folder / HEARTBEAT)
    except (FileNotFoundError, FormatError, StorageError):
        return {}
