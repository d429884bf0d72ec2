"""Connections → associations with nodes that are known, each within what its node may do; every other is refused.

Each association has threads of its own; what they ask of the centre runs in the loop that opened it. What a peer may
cost is bounded before it is known: connections, the length of a PDU, the time until it has said who it is.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import pydicom.config
import structlog
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from lampyris import __version__
from lampyris.centre.archive.queries import FoundInstance
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.dimse import contexts, nodes
from lampyris.centre.dimse.nodes import Node
from lampyris.centre.observe.logs import where
from lampyris.centre.service import Centre
from lampyris.dicom.ids import IMPLEMENTATION_CLASS_UID

T = TypeVar("T")

ASSOCIATIONS = 64
"""At a time, of all nodes."""
PER_NODE = 16
"""At a time, of one node: one that hangs leaves room for the others."""
PDU_BYTES = 1 << 20
"""What we let a peer put into one P-DATA-TF."""
ACSE_S, DIMSE_S, NETWORK_S = 10.0, 60.0, 60.0
_READ_BYTES = 1 << 18
_SLACK_BYTES = 1 << 16
"""By which a PDU may be longer than what was negotiated: an A-ASSOCIATE-RQ of 128 contexts is not bounded by it."""
_STOP_S = 20.0
_ANSWER_S = 55.0


class Door:
    """What handlers need of the centre, from the threads of associations."""

    def __init__(self, centre: Centre, loop: asyncio.AbstractEventLoop) -> None:
        self.centre, self._loop = centre, loop
        self._known: WeakKeyDictionary[Association, Node] = WeakKeyDictionary()
        self._busy: WeakKeyDictionary[Association, bool] = WeakKeyDictionary()
        self._stored: WeakKeyDictionary[Association, set[str]] = WeakKeyDictionary()
        self.log = structlog.get_logger()

    def ask(self, action: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something with a connection to the database, and wait for it. Raises what it raises, TimeoutError."""

        async def whole() -> T:
            async with self.centre.pool.connection() as connection:
                return await action(connection)

        return self.run(whole())

    def run(self, action: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop, and wait for it. Raises what it raises, TimeoutError."""
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(_ANSWER_S)

    def guarded(self, handlers: Iterable[tuple[Any, Callable[[Event], Any]]]) -> list[tuple[Any, Any]]:
        """The same handlers; while one is at work its association is busy, and what it raises is logged."""
        return [(event, self._guarded(handler)) for event, handler in handlers]

    def _guarded(self, handler: Callable[[Event], Any]) -> Callable[[Event], Any]:
        def given(event: Event) -> Any:
            self._busy[event.assoc] = True
            try:
                answer = handler(event)
                if isinstance(answer, Iterator):
                    answer = self._each(event.assoc, answer)
                return answer
            except Exception as error:
                self.log.error("no answer", service=event.event.name, kind=type(error).__name__, where=where(error))
                raise
            finally:
                self._busy.pop(event.assoc, None)

        return given

    def _each(self, association: Association, answers: Iterator[Any]) -> Iterator[Any]:
        self._busy[association] = True
        try:
            yield from answers
        except Exception as error:
            self.log.error("no answer", kind=type(error).__name__, where=where(error))
            raise
        finally:
            self._busy.pop(association, None)

    def is_busy(self, association: Association) -> bool:
        """Whether something is in hand there: an answer is being made, or a message has come in part."""
        dimse = association.dimse
        return association in self._busy or dimse.message is not None or not dimse.msg_queue.empty()

    def node_of(self, event: Event) -> Node:
        """Who asks."""
        return self._known[event.assoc]

    def noted(self, event: Event, kind: Kind, outcome: str, told: str | None, **detail: Any) -> None:
        """Write into the audit what a node did; `told` is the object, by its UID."""
        node = self.node_of(event)
        entry = Entry(kind, f"node:{node.aet}", outcome, _address(event.assoc), node.site, told, detail)
        self.ask(lambda connection: note(connection, entry))

    def stored(self, event: Event, study_uid: str) -> None:
        """Write into the audit that a node stores objects of a study: once an association, not once an object."""
        told = self._stored.setdefault(event.assoc, set())
        if study_uid not in told:
            told.add(study_uid)
            self.noted(event, Kind.STORE, "success", study_uid)

    def noted_studies(self, event: Event, kind: Kind, instances: Iterable[FoundInstance], **detail: Any) -> None:
        """Write into the audit which studies are given away, and how much of them."""
        counts = Counter(one.study_uid for one in instances)
        for study, count in counts.items():
            self.noted(event, kind, "success", study, instances=count, **detail)

    def admit(self, event: Event) -> None:
        """An association was asked for: bound it by what its node may do, or reject it (PS3.8 section 9.3.4)."""
        association, address = event.assoc, _address(event.assoc)
        asked = association.requestor.primitive
        assert asked is not None
        title, ours = asked.calling_ae_title.strip(), asked.called_ae_title.strip()
        node = None
        if ours == self.centre.settings.aet:
            try:
                node = self.ask(lambda connection: nodes.find(connection, title))
            except Exception as error:
                self.log.error("no association can be looked up", kind=type(error).__name__)
                self._reject(association, (2, 3, 1))
                return
        if node is None or not node.is_at(address) or (node.tls and not _secured(association)):
            self.log.warning("association refused", node=title if node else None, address=address)
            self._refused(title if node else "?", address, node)
            self._reject(association, (1, 1, 3 if ours == self.centre.settings.aet else 7))
            return
        busy = sum(one.aet == node.aet for other, one in list(self._known.items()) if other.is_alive())
        if busy >= PER_NODE:
            self._reject(association, (2, 3, 2))
            return
        self._known[association] = node
        association.acceptor.supported_contexts = contexts.accepted(node.may, commits=node.commits)

    def _refused(self, title: str, address: str, node: Node | None) -> None:
        """The audit of a refusal; a title that nobody has is not repeated there: it may be anything."""
        entry = Entry(Kind.LOGIN, f"node:{title}", "refused", address, node.site if node else None, None, {})
        with contextlib.suppress(Exception):  # the refusal stands, whether or not the database is there
            self.ask(lambda connection: note(connection, entry))

    def _reject(self, association: Association, why: tuple[int, int, int]) -> None:
        association.acse.send_reject(*why)
        evt.trigger(association, evt.EVT_REJECTED, {})
        association.kill()


class _Bounded(AssociationSocket):
    """A connection that no PDU fills the memory of, and no silence in the middle of one holds for ever."""

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, or fewer when the peer has ended; OSError for more than it may send, or too slowly."""
        if nr_bytes > PDU_BYTES + _SLACK_BYTES:
            raise ConnectionError(f"a PDU of {nr_bytes} bytes was announced, at most {PDU_BYTES} were agreed")
        found = bytearray()
        assert self.socket is not None
        until = time.monotonic() + NETWORK_S
        while len(found) < nr_bytes:
            piece = self.socket.recv(min(_READ_BYTES, nr_bytes - len(found)))
            if not piece:
                break
            found += piece
            if time.monotonic() > until:
                raise TimeoutError("a PDU came too slowly")
        return found


class _Connection(RequestHandler):
    """A connection until its association runs: counted, timed, and secured in a thread of its own."""

    server: "_Server"

    def handle(self) -> None:
        if len(self.server.active_associations) >= self.server.most:
            self.server.shutdown_request(self.request)
            return
        self.request.settimeout(ACSE_S)
        if self.server.secured is not None:
            try:
                self.request = self.server.secured.wrap_socket(self.request, server_side=True)
            except OSError:  # no certificate, or no TLS at all
                self.server.shutdown_request(self.request)
                return
        self.request.settimeout(NETWORK_S)
        super().handle()

    def _create_association(self) -> Association:
        made = super()._create_association()
        # The library takes no class for it, and a second one would tell the state machine of a second connection.
        made.dul.socket.__class__ = _Bounded
        return made


class _Server(ThreadedAssociationServer):
    """The server, which greets each connection in a thread: a slow handshake holds nobody else."""

    request_queue_size = 64
    most = 2 * ASSOCIATIONS
    secured: ssl.SSLContext | None = None


class Server:
    """A listening application entity; `close` lets what is under way end, for a while."""

    def __init__(self, door: Door, address: tuple[str, int], handlers: list[Any], *, tls: bool) -> None:
        quiet()
        self._door = door
        entity = AE(door.centre.settings.aet)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = f"LAMPYRIS_{__version__}"[:16]
        entity.maximum_associations = ASSOCIATIONS
        entity.maximum_pdu_size = PDU_BYTES
        entity.connection_timeout = ACSE_S
        entity.require_called_aet = True
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = ACSE_S, DIMSE_S, NETWORK_S
        handlers = [(evt.EVT_REQUESTED, door.admit), *handlers]
        self._server: _Server = entity.make_server(  # type: ignore[assignment]
            address,
            contexts=contexts.accepted(nodes.MAY, commits=True),
            evt_handlers=handlers,
            server_class=_Server,
            request_handler=_Connection,
        )
        self._server.secured = nodes.answering(door.centre.settings) if tls else None
        entity._servers.append(self._server)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more associations; end those in which nothing is in hand, and after a while all."""
        self._server.shutdown()
        until = time.monotonic() + _STOP_S
        while (left := self._server.active_associations) and time.monotonic() < until:
            for one in left:
                if not one.is_established:
                    _hang_up(one)
                elif not self._door.is_busy(one):
                    one.abort()
            time.sleep(0.02)
        for one in self._server.active_associations:
            one.abort()
        self._thread.join()


def _hang_up(association: Association) -> None:
    """End a connection that is no association."""
    held = association.dul.socket
    with contextlib.suppress(OSError, AttributeError):  # it may end by itself at the same moment
        held.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    association.dul.to_user_queue.put(None)  # as if its time to say who it is were over


def _address(association: Association) -> str:
    return str(association.requestor.address).removeprefix("::ffff:")


def _secured(association: Association) -> bool:
    held = association.dul.socket
    return held is not None and isinstance(held.socket, ssl.SSLSocket)


def quiet() -> None:
    """Keep the DICOM libraries of this process from writing what they receive: it is about patients."""
    logger = logging.getLogger("pynetdicom")
    logger.propagate, logger.handlers = False, [logging.NullHandler()]
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_RECV_CHUNKED_DATASET = True  # an object in hand lies in a file, not in memory
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """While this lasts no library warns: a process of its own begins with it, for a warning quotes values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
