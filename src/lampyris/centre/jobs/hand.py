"""Orders to reconstruct → a process beside the worker that carries them out, one at a time.

Kernels hold Python's lock for as long as they run, minutes at times: a worker that computed could give no sign of life,
and one that crashed could not say of what. So the worker only waits, and this process may die.
"""

import dataclasses
import errno
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from lampyris.centre.jobs.card import VISIBLE, Card
from lampyris.centre.jobs.queue import DiedError, FullError, Work
from lampyris.centre.observe.logs import to_stderr, where
from lampyris.centre.recipes.choice import Library
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store
from lampyris.model import EngineUnavailable, InputError, LampyrisError, MachineError, ProgramError, StorageError
from lampyris.transfer import Manifest, ReturnedFile

Made: TypeAlias = tuple[list[ReturnedFile], str]
"""Files in the store, and the gate's verdict."""
Watch: TypeAlias = Callable[[str, float], None]
"""Called with a station's name and the fraction of it that is done, as in `lampyris.path`, which is not needed here."""
_OF_CARDS = re.compile(r"(numba\.cuda|cupy|cupy_backends|cupyx|cuda)(\.|$)")
"""Modules whose errors tell of the driver, a launch or memory of a card."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_WORDS = re.compile(rf"os error (?:{errno.ENOSPC}|{errno.EDQUOT})\b")


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is told: the scan's manifest (JSON), an empty folder for it, when it was committed, the recipes
    that it may have, and the one where it is made again with another."""

    manifest: bytes
    folder: Path
    committed: datetime
    library: Library
    recipe: str | None


class Hand:
    """The process of one worker; it is started with the first order, and again after it died.

    It sees the worker's card and no other, and computes every image on it; without one it sees none, so that nobody
    computes on a card in secret.
    """

    early: Callable[[int, int], None] = staticmethod(lambda _hits, _misses: None)
    """Told of every scan that was begun early: how much of that was taken, and how much was looked for in vain."""

    def __init__(self, settings: Settings, card: Card | None = None) -> None:
        self._settings, self._card = settings, card
        self._process: SpawnProcess | None = None
        self._orders: Connection | None = None
        self._leash: Connection | None = None

    def make(self, work: Work, manifest: Manifest, folder: Path, watch: Watch) -> Made:
        """Have a scan reconstructed; raises what the reconstruction raised, DiedError when the process died of it."""
        try:
            orders = self._started()
            orders.send(Order(manifest.to_json(), folder, work.committed, work.library, work.recipe))
            while True:
                kind, *told = orders.recv()
                if kind == "at":
                    watch(*told)
                elif kind == "early":
                    self.early(*told)
                    structlog.get_logger().info("early work used", scan=work.scan, hits=told[0], misses=told[1])
                elif kind == "made":
                    return told[0], told[1]
                else:
                    if kind == "ended":
                        self._ended()  # or the next order would meet it on its way out
                    raise told[0]
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                raise
            raise DiedError(
                f"the process that reconstructs died ({self._ended()}): out of memory, or killed?"
            ) from None

    def start(self) -> None:
        """Start the process now. Raises EngineUnavailable when nothing here can compute on its card."""
        try:
            self._begin()
        except (EOFError, OSError):
            raise DiedError(f"the process that reconstructs died before it began ({self._ended()})") from None

    @property
    def pid(self) -> int | None:
        """Number of the process while it lives."""
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def close(self) -> None:
        """End the process, whatever it does."""
        for connection in (self._orders, self._leash):
            if connection is not None:
                connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._orders = self._leash = None

    def _started(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._orders is not None:
            return self._orders
        try:
            return self._begin()
        except EngineUnavailable as error:  # it was there when the worker began: another worker may have better luck
            raise MachineError(f"the worker's card is gone: {error}") from error

    def _begin(self) -> Connection:
        self.close()
        context = multiprocessing.get_context("spawn")
        orders, theirs = context.Pipe()
        held, self._leash = context.Pipe(duplex=False)
        arguments = (theirs, held, self._settings.to_json(), "" if self._card is None else self._card.handle)
        self._process = context.Process(target=self._target(), args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        held.close()
        self._orders = orders
        if (unable := orders.recv()) is not None:
            self.close()
            raise unable
        return orders

    def _target(self) -> Callable[..., None]:
        """What the process runs."""
        return _carry_out

    def _ended(self) -> str:
        assert self._process is not None
        self._process.join(10)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit {code}"


def blamed(error: BaseException, station: str) -> LampyrisError:
    """Whose fault it is: what was raised on purpose, a machine that fails, or a mistake of ours, which is logged."""
    if _is_full(error):
        return FullError("a disk of the worker or of the store is full: free some space; the scan waits for it")
    if isinstance(error, LampyrisError):
        return error
    if isinstance(error, OSError):
        return StorageError(f"the worker's disk fails ({error.strerror})")
    if isinstance(error, MemoryError):
        return MachineError("the worker has not enough memory for this scan")
    kind = type(error).__name__
    if _OF_CARDS.match(type(error).__module__):
        told = " ".join(str(error).split())[:200]
        structlog.get_logger().error("card failed", kind=kind, station=station, where=where(error), told=told)
        return MachineError(f"the card failed at station {station or 'fetch'} ({kind}): {told}")
    structlog.get_logger().error("program error", kind=kind, station=station, where=where(error))
    return ProgramError(f"{kind} at station {station or 'fetch'}")


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a full quota, is at the root of it; the store's library tells that in words alone."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or _FULL_IN_WORDS.search(str(error)):
            return True
        error = error.__cause__
    return False


def _carry_out(orders: Connection, leash: Connection, settings_json: str, card: str) -> None:
    """The process: order after order, until the worker is gone, or until something failed on its card."""
    obey(leash, card)
    from lampyris.centre.jobs.reconstruct import reconstruct

    settings = Settings.from_json(settings_json)
    store = Store(settings)
    orders.send(_unable(card))
    while True:
        order: Order = orders.recv()
        station = ""

        def watch(name: str, done: float) -> None:
            nonlocal station
            station = name
            orders.send(("at", name, done))

        answer: tuple[Any, ...]
        try:
            manifest = Manifest.parse(order.manifest)
            library = dataclasses.replace(order.library, default=settings.recipe)
            files, verdict = reconstruct(
                store, manifest, order.folder, library=library, committed=order.committed, watch=watch,
                early=lambda hits, misses: orders.send(("early", hits, misses)), other=order.recipe,
                engine=engine_of(card),
            )  # fmt: skip
            answer = ("made", files, verdict)
        except Exception as error:  # the worker decides what becomes of the scan
            blame = blamed(error, station)
            ends = card and not isinstance(blame, InputError)
            answer = ("ended" if ends else "failed", blame)
        orders.send(answer)
        if answer[0] == "ended":
            return  # what a failure leaves on a card, a broken context or memory, ends with the process that had it


def _unable(card: str) -> LampyrisError | None:
    """Why nothing here computes on the card that was asked for; None where something does, and when none was."""
    from lampyris import projector
    from lampyris.recon.learned.denoiser import Denoiser, digest_of, known

    try:
        engine = projector.load(engine_of(card))
        for name in known() if card else ():
            Denoiser.load(name, digest_of(name), engine=engine)
    except EngineUnavailable as error:
        return error
    return None


def engine_of(card: object) -> str:
    """What a worker computes images on that holds this card, or none."""
    return "cuda" if card else "cpu"


def obey(leash: Connection, card: str) -> None:
    """What a process of the worker does first: it sees its card alone, and ends when the worker is gone.

    Signals are the worker's to answer.
    """
    os.environ[VISIBLE] = card  # before anything is loaded that looks for cards
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_worker, args=(leash,), daemon=True).start()
    to_stderr()


def _end_with_worker(leash: Connection) -> None:
    """Nobody waits for the answer of a worker that is gone."""
    try:
        leash.recv()
    except (EOFError, OSError):
        os._exit(1)
