"""Programs → processes that are begun again when they die, end together, and are never left behind.

Each has a session of its own: Ctrl-C reaches `lampyris up` alone, which ends them in order. A keeper beside them ends
them when `up` itself is killed. It is told of each before that runs anything of ours, by the shell that becomes it.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lampyris.cli.up import keeper
from lampyris.model import MachineError, StorageError

_BECOME = 'echo "$$" && exec "$0" "$@" >&2'
"""To the keeper's pipe, which is this shell's stdout, its number; then it is the program, and the pipe is let go."""
_AGAIN_S = 2.0
_ALONE_S = 20.0
"""How long a keeper may take to clean up after an `up` that was killed."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. Its output goes to the end of `log`, or where ours goes; `again`: it is begun again when it ends."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    again: bool = True


@dataclass(slots=True)
class _Running:
    program: Program
    process: "subprocess.Popen[bytes]"
    began: float


class Processes:
    """All that `lampyris up` runs. Used by one thread."""

    def __init__(self, environment: Mapping[str, str], lock: int) -> None:
        """`environment` is what the keeper finds the database by; `lock` the file that it holds while it cleans up."""
        self._environment, self._lock = environment, lock
        self._running: dict[str, _Running] = {}
        self._keeper = self._keep()

    def add(self, program: Program) -> None:
        """Begin a program, and from now on keep it running. One that ended and is not `again` gives up its name."""
        self._running[program.name] = self._begun(program)

    def mend(self) -> list[tuple[str, int]]:
        """Begin again what died, not sooner than two seconds after it began: name and exit code of each."""
        if self._keeper.poll() is not None:
            self._dismiss()
            self._keeper = self._keep()
            for one in self._running.values():
                self._tell(str(one.process.pid))
        died = []
        for name, one in self._running.items():
            code = one.process.poll()
            if one.program.again and code is not None and time.monotonic() - one.began >= _AGAIN_S:
                self._end_group(one.process)
                self._running[name] = self._begun(one.program)
                died.append((name, code))
        return died

    def ended(self, name: str) -> int | None:
        """Exit code of a program that is not begun again; None while it runs."""
        return self._running[name].process.poll()

    def end(self, hurry: Callable[[], bool]) -> None:
        """End everything: each may finish what it has in hand, unless there is a `hurry`."""
        for one in self._running.values():
            one.process.terminate()
        while any(one.process.poll() is None for one in self._running.values()) and not hurry():
            time.sleep(0.05)
        for one in self._running.values():
            self._end_group(one.process)
        self._running.clear()

    def close(self) -> None:
        """Send the keeper home: nothing is left for it."""
        self._tell("done")
        self._dismiss()

    def _begun(self, program: Program) -> _Running:
        log: IO[bytes] | None = None
        try:
            log = None if program.log is None else program.log.open("ab")
            process = subprocess.Popen(
                ["/bin/sh", "-c", _BECOME, *program.command],
                stdin=subprocess.DEVNULL,
                stdout=self._keeper.stdin,
                stderr=log,
                env={**os.environ, **program.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(
                f"{program.name} cannot be started ({error.strerror}): memory, disk, processes?"
            ) from error
        finally:
            if log is not None:
                log.close()
        return _Running(program, process, time.monotonic())

    def _end_group(self, process: "subprocess.Popen[bytes]") -> None:
        """End a process with all that it has started, such as the server processes of an interface that died."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._tell(f"-{process.pid}")

    def _keep(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", keeper.__file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            env={**os.environ, **self._environment},
            pass_fds=(self._lock,),
            start_new_session=True,
        )

    def _dismiss(self) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def _tell(self, line: str) -> None:
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # another keeper is told of everything
            self._keeper.stdin.write(f"{line}\n".encode())


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold a centre's folder against every other `lampyris up`: the open file that is the lock. Raises MachineError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "up.lock").open("w")
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}): choose another --data") from error
    with file:
        until = time.monotonic() + _ALONE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise MachineError(
                        f"another `lampyris up` works in {folder}: end it, or choose another --data"
                    ) from None
                time.sleep(0.1)
        yield file.fileno()
