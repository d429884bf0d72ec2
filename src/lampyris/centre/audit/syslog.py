"""DICOM audit messages → syslog as RFC 5424 has it, over TLS as RFC 5425 has it, to an audit record repository.

PS3.15 A.6: facility 10, the message's id is DICOM+RFC3881, its text is the XML in UTF-8. Syslog acknowledges nothing:
what was handed over before the connection was closed in good order counts as sent.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lampyris.centre.audit.chain import Link
from lampyris.centre.audit.messages import message_of
from lampyris.centre.audit.search import ROOT, Wanted, following
from lampyris.centre.database import Connection
from lampyris.model import InputError, MachineError

PORT = 6514
"""Of syslog over TLS."""
_NOTICE, _WARNING = 10 * 8 + 5, 10 * 8 + 4
_AT_ONCE = 500
_PATIENCE_S = 30.0


class RepositoryError(MachineError):
    """An audit record repository does not answer, or is not the one that its certificate should name."""

    code = "MACHINE_AUDIT_REPOSITORY"


@dataclass(frozen=True, slots=True)
class Repository:
    """Where messages go: host and port; `authority` is the certificate (PEM) that signs its own, None = the system's.

    `certificate` and `key` are the centre's own, for a repository that asks who sends.
    """

    host: str
    port: int = PORT
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @staticmethod
    def of(url: str, **places: Path | None) -> "Repository":
        """From syslog-tls://HOST[:PORT]. Raises InputError: what an audit tells does not travel in the clear."""
        parts = urlsplit(url)
        if parts.scheme != "syslog-tls" or not parts.hostname or parts.path.strip("/") or parts.username:
            raise InputError("the audit repository is not syslog-tls://HOST[:PORT]")
        return Repository(parts.hostname, parts.port or PORT, **places)

    @property
    def name(self) -> str:
        return f"syslog-tls://{self.host}:{self.port}"


def line_of(link: Link, source: str) -> bytes:
    """One syslog message (RFC 5424), not framed."""
    priority = _NOTICE if link.entry.outcome == "success" else _WARNING
    at = link.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{priority}>1 {at} {_name(source)} lampyris - DICOM+RFC3881 - "
    return head.encode() + b"\xef\xbb\xbf" + message_of(link, source).encode()


def framed(message: bytes) -> bytes:
    """The same with its length before it (RFC 5425, 4.3)."""
    return b"%d %s" % (len(message), message)


async def send(connection: Connection, repository: Repository, source: str) -> int:
    """Send all that the repository has not got, in order; how many. Raises RepositoryError."""
    cursor = await connection.execute("SELECT number FROM audit_sent WHERE repository = %s", (repository.name,))
    row = await cursor.fetchone()
    number, sent = 0 if row is None else int(row["number"]), 0
    while links := await following(connection, (ROOT,), Wanted(), after=number, count=_AT_ONCE):
        await _hand_over(repository, [framed(line_of(link, source)) for link in links])
        number, sent = links[-1].number, sent + len(links)
        await connection.execute(
            "INSERT INTO audit_sent (repository, number) VALUES (%s, %s)"
            " ON CONFLICT (repository) DO UPDATE SET number = excluded.number, at = now()",
            (repository.name, number),
        )
    return sent


async def _hand_over(repository: Repository, messages: Sequence[bytes]) -> None:
    try:
        context = ssl.create_default_context(cafile=repository.authority)
        if repository.certificate is not None:
            context.load_cert_chain(repository.certificate, repository.key)
        async with asyncio.timeout(_PATIENCE_S):
            _, writer = await asyncio.open_connection(repository.host, repository.port, ssl=context)
            writer.writelines(messages)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        raise RepositoryError(
            f"{repository.name} took no messages ({type(error).__name__}): does it run, and is its certificate known?"
        ) from error


def _name(source: str) -> str:
    """A host name as the head of a message may hold it: printable ASCII without spaces."""
    return "".join(one for one in source if "!" <= one <= "~")[:255] or "-"
