"""The newest link of the chain → a signed anchor, logged and appended to a file: cutting off the end then shows.

Whoever owns the database can write a whole chain anew, but not what was logged or copied elsewhere before.
"""

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import structlog

from lampyris.centre.audit.verify import Anchor
from lampyris.centre.database import Connection
from lampyris.durable import sync
from lampyris.model import InputError, StorageError
from lampyris.transfer import PublicKey, SiteKey
from lampyris.transfer.signing import Envelope

TYPE = "lampyris-audit-anchor+jws"
KEY, ANCHORS = "audit.key", "audit.anchors"
"""In the folder of the centre: the private key (mode 600), and the anchors, one JWS in compact form a line."""
VARIABLE = "LAMPYRIS_AUDIT_KEY"
"""Holds the private key in PEM where processes of one centre share no folder."""


async def drop(connection: Connection, folder: Path) -> Anchor | None:
    """Anchor the newest link: sign it, append it to the folder's anchors, log it. None while there is none.

    Raises StorageError.
    """
    cursor = await connection.execute("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1")
    row = await cursor.fetchone()
    if row is None:
        return None
    anchor = Anchor(row["number"], row["digest"], datetime.now(UTC).replace(microsecond=0))
    text = await asyncio.to_thread(_append, folder, anchor)
    structlog.get_logger().info("audit anchored", number=anchor.number, digest=anchor.digest, anchor=text)
    return anchor


def dropped(place: Path, key: PublicKey) -> list[Anchor]:
    """The anchors of a file, which this key signed. Raises InputError for a line that it did not, StorageError."""
    try:
        lines = place.read_text("ascii").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"the anchors in {place.name} cannot be read ({type(error).__name__})") from error
    return [_opened(line, key) for line in lines if line]


def key_of(folder: Path) -> SiteKey:
    """The key that signs anchors: the environment's, or this folder's, made when there is none yet.

    Raises StorageError, FormatError.
    """
    shared = os.environ.get(VARIABLE)
    if shared:
        return SiteKey.of(shared.encode(), VARIABLE)
    place = folder / KEY
    if not place.is_file():
        fresh = SiteKey.generate()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fresh.save(place)
        except StorageError:
            if not place.is_file():  # another process of this folder was faster
                raise
    return SiteKey.load(place)


def _append(folder: Path, anchor: Anchor) -> str:
    payload = {"number": anchor.number, "digest": anchor.digest, "at": anchor.at.isoformat()}
    text = key_of(folder).sign(json.dumps(payload).encode(), TYPE)
    place = folder / ANCHORS
    try:
        handle = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{text}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        sync(folder)
    except OSError as error:
        raise StorageError(f"the anchors of the audit cannot be written ({error.strerror})") from error
    return text


def _opened(text: str, key: PublicKey) -> Anchor:
    payload = Envelope.of(text, TYPE).opened(key)
    try:
        said = json.loads(payload)
        return Anchor(int(said["number"]), str(said["digest"]), datetime.fromisoformat(said["at"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("a line of the anchors is signed, and holds no anchor") from error
