"""What an operator knows of a DICOM application entity → a node: who it is, where it is, what it may do here.

A node is known by its AE title, which is unique in a DICOM network (PS3.8 section 7.1.1.4), and confirmed by its
address. Hosts come from operators alone: nothing that a person or a peer sends names one.
"""

import asyncio
import dataclasses
import ipaddress
import os
import re
import socket
import ssl
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.settings import Settings
from lampyris.model import InputError, MachineError

MAY = ("store", "query", "retrieve", "worklist", "mpps", "commitment")
"""What a node may ask of us."""
CHARSETS = ("ISO_IR 192", "GB18030", "GBK", "ISO_IR 100")
_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_ECHO_S = 5.0


@dataclass(frozen=True, slots=True)
class Node:
    """An application entity of a site.

    `may` holds words of MAY; `charset` is what it is answered in; `syntaxes` are the transfer syntaxes that it is
    offered, none = as the objects are, and uncompressed; `stow` is the address of its STOW-RS, which is then used to
    send; `commits`: it is asked for storage commitment of what it was sent. Raises InputError.
    """

    aet: str
    site: str
    host: str
    port: int
    may: tuple[str, ...] = ()
    tls: bool = False
    charset: str = "ISO_IR 192"
    syntaxes: tuple[str, ...] = ()
    stow: str | None = None
    commits: bool = False

    def __post_init__(self) -> None:
        if not _TITLE.fullmatch(self.aet):
            raise InputError("an AE title has 1 to 16 characters of ASCII without a backslash, no blank at its ends")
        if not (_is_address(self.host) or _HOST.fullmatch(self.host)):
            raise InputError(f"the host of {self.aet} is neither an IP address nor a name")
        if not 1 <= self.port <= 65535:
            raise InputError(f"the port of {self.aet} is {self.port}, expected 1 to 65535")
        if unknown := set(self.may) - set(MAY):
            raise InputError(f"{self.aet} may {', '.join(sorted(unknown))}: there are {', '.join(MAY)}")
        if self.charset not in CHARSETS:
            raise InputError(f"the character set of {self.aet} is none of {', '.join(CHARSETS)}")
        if not all(UID(one).is_transfer_syntax for one in self.syntaxes):
            raise InputError(f"{self.aet} is offered a UID that is no transfer syntax")
        if self.stow is not None and (urlsplit(self.stow).scheme not in ("http", "https") or _bears(self.stow)):
            raise InputError(f"the STOW-RS address of {self.aet} is no http(s) URL, or holds a password or a query")

    def is_at(self, address: str) -> bool:
        """Whether a connection from this IP address may be of this node; asks the resolver where `host` is a name."""
        try:
            found = {self.host} if _is_address(self.host) else {
                str(one[4][0]) for one in socket.getaddrinfo(self.host, None)
            }  # fmt: skip
        except OSError:
            return False
        return ipaddress.ip_address(address) in {ipaddress.ip_address(one) for one in found}


class NodeError(MachineError):
    """A node does not answer, or is full: it may be tried again."""

    code = "MACHINE_NODE"


@dataclass(frozen=True, slots=True)
class Echo:
    """What came of a C-ECHO: whether the node accepted us, and if not at what it failed."""

    answered: bool
    detail: str


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bears(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.username or parts.password or parts.query or parts.fragment or not parts.hostname)


_COLUMNS = ", ".join(each.name for each in dataclasses.fields(Node))


def _node(row: dict[str, Any]) -> Node:
    return Node(**(row | {"may": tuple(row["may"]), "syntaxes": tuple(row["syntaxes"])}))


async def listed(connection: Connection, sites: Iterable[str] | None = None) -> list[Node]:
    """Nodes of these sites, or of all, by AE title."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM node WHERE %(sites)s::text[] IS NULL OR site = ANY(%(sites)s) ORDER BY aet",
        {"sites": None if sites is None else list(sites)},
    )
    return [_node(row) for row in await cursor.fetchall()]


async def find(connection: Connection, aet: str, *, site: str | None = None) -> Node | None:
    """The node of this AE title; with `site` only if it is that site's. A site that is shut out has none."""
    cursor = await connection.execute(
        f"SELECT {', '.join(f'node.{one}' for one in _COLUMNS.split(', '))} FROM node JOIN site ON site.id = node.site"
        " WHERE aet = %(aet)s AND NOT suspended AND (%(site)s::text IS NULL OR node.site = %(site)s)",
        {"aet": aet.strip(), "site": site},
    )
    row = await cursor.fetchone()
    return None if row is None else _node(row)


async def add(connection: Connection, node: Node, who: str, address: str | None = None) -> None:
    """Add a node. Raises InputError when its title is taken, or there is no such site."""
    values = dataclasses.asdict(node) | {"may": list(node.may), "syntaxes": list(node.syntaxes)}
    places = ", ".join(f"%({name})s" for name in values)
    try:
        async with connection.transaction():
            await connection.execute(f"INSERT INTO node ({', '.join(values)}) VALUES ({places})", values)
            await _noted(connection, node, "added", who, address)
    except psycopg.errors.UniqueViolation as error:
        raise InputError(f"there is a node {node.aet} already: AE titles are unique in a network") from error
    except psycopg.errors.ForeignKeyViolation as error:
        raise InputError(f"there is no site {node.site[:63]!a}") from error


async def change(connection: Connection, node: Node, who: str, address: str | None = None) -> None:
    """Let a node be as this one says, from its next association on; its site stays. Raises InputError."""
    values = dataclasses.asdict(node) | {"may": list(node.may), "syntaxes": list(node.syntaxes)}
    told = ", ".join(f"{name} = %({name})s" for name in values if name not in ("aet", "site"))
    async with connection.transaction():
        found = await connection.execute(f"UPDATE node SET {told} WHERE aet = %(aet)s AND site = %(site)s", values)
        if not found.rowcount:
            raise InputError(f"{node.site[:63]!a} has no node {node.aet}")
        await _noted(connection, node, "changed", who, address)


async def remove(connection: Connection, site: str, aet: str, who: str, address: str | None = None) -> None:
    """Forget a node, with the list of what it was sent. Raises InputError when the site has no such node."""
    async with connection.transaction():
        found = await connection.execute("DELETE FROM node WHERE aet = %s AND site = %s", (aet, site))
        if not found.rowcount:
            raise InputError(f"{site[:63]!a} has no node {aet[:16]!a}")
        entry = Entry(Kind.CONFIGURE, who, address=address, site=site, object=aet, detail={"node": "removed"})
        await note(connection, entry)


async def _noted(connection: Connection, node: Node, what: str, who: str, address: str | None) -> None:
    told = {"node": what, "host": node.host, "port": node.port, "may": list(node.may), "tls": node.tls}
    entry = Entry(Kind.CONFIGURE, who, address=address, site=node.site, object=node.aet, detail=told)
    await note(connection, entry)


async def echo(settings: Settings, node: Node) -> Echo:
    """Ask a node whether it knows us, by C-ECHO; never longer than a few seconds."""
    return await asyncio.to_thread(_echo, settings, node)


def _echo(settings: Settings, node: Node) -> Echo:
    entity = AE(settings.aet)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ECHO_S
    entity.add_requested_context(Verification)
    try:
        association = reach(entity, settings, node)
    except NodeError as error:
        return Echo(False, str(error))
    status = association.send_c_echo()
    association.release()
    answered = getattr(status, "Status", None) == 0
    return Echo(answered, "it answers" if answered else "it accepted the association and did not answer C-ECHO")


def reach(entity: AE, settings: Settings, node: Node, **more: Any) -> Association:
    """An association with a node that stands. Raises NodeError, and MachineError for TLS without certificates."""
    secured = calling(settings, node)
    try:
        association = entity.associate(node.host, node.port, ae_title=node.aet, tls_args=secured, **more)
    except (OSError, RuntimeError) as error:
        raise NodeError(f"no connection to {node.aet} ({type(error).__name__})") from error
    if association.is_established:
        return association
    if association.is_rejected:
        raise NodeError(f"{node.aet} rejects the association: does it know {settings.aet}, and is its own title right?")
    raise NodeError(f"nobody answers DICOM as {node.aet} at {node.host}, port {node.port}")


def calling(settings: Settings, node: Node) -> tuple[ssl.SSLContext, str] | None:
    """What an association to a node is secured by; None for one that is not. Raises MachineError."""
    if not node.tls:
        return None
    context = ssl.create_default_context(cafile=str(_tls(settings) / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(_tls(settings) / "cert.pem", _tls(settings) / "key.pem")
    return context, node.host


def answering(settings: Settings) -> ssl.SSLContext:
    """What secures associations that come in: both sides show a certificate (PS3.15 B.12). Raises MachineError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(_tls(settings) / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(_tls(settings) / "cert.pem", _tls(settings) / "key.pem")
    return context


def trusting(settings: Settings) -> ssl.SSLContext:
    """What HTTPS to a node is secured by: the authority that DICOM goes by. Raises MachineError."""
    return ssl.create_default_context(cafile=str(_tls(settings) / "ca.pem"))


def stow_key(settings: Settings, node: Node) -> str | None:
    """What stands in the Authorization header of STOW-RS to a node; None where nothing is known.

    Raises MachineError for a file that others may read, that is no TOML of texts, or a key that would travel in clear.
    """
    if settings.stow_keys is None:
        return None
    place = Path(settings.stow_keys)
    try:
        mode, told = place.stat().st_mode, tomllib.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MachineError(f"the file that LAMPYRIS_STOW_KEYS names cannot be read ({type(error).__name__})") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise MachineError("the file that LAMPYRIS_STOW_KEYS names may be read by others: chmod 600 it")
    key = told.get(node.aet)
    if key is None:
        return None
    if not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise MachineError(f"the key of {node.aet} in the file that LAMPYRIS_STOW_KEYS names is no line of ASCII text")
    address = urlsplit(node.stow or "")
    if address.scheme != "https" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise MachineError(f"the STOW-RS address of {node.aet} is not https: its key would travel in clear")
    return key


def _tls(settings: Settings) -> Path:
    folder = settings.dicom_tls
    if folder is None:
        raise MachineError("DICOM over TLS needs LAMPYRIS_DICOM_TLS: a folder with cert.pem, key.pem and ca.pem")
    absent = [name for name in ("cert.pem", "key.pem", "ca.pem") if not (Path(folder) / name).is_file()]
    if absent:
        raise MachineError(f"the folder that LAMPYRIS_DICOM_TLS names has no {', '.join(absent)}")
    return Path(folder)
