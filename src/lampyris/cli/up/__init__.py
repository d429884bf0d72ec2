"""`lampyris up` → a whole centre on this machine, until Ctrl-C; with a site that scans a phantom, if wanted."""

import argparse
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lampyris.cli import terminal
from lampyris.cli.centre import (
    address_of,
    check_reachable,
    check_recipe,
    node_command,
    server_command,
    settings_of,
    worker_command,
)
from lampyris.model import InputError, MachineError
from lampyris.transfer import PRIORITIES

if TYPE_CHECKING:  # parsing a command line needs neither a web server nor a database
    from lampyris.centre import Settings
    from lampyris.cli.up.processes import Processes, Program

_LOOK_S = 0.1
_COMPANION = "routine"
"""What the demonstration compares its series with: filtered backprojection at the same dose."""
_HERE = "127.0.0.1"
"""Where DICOM nodes of this machine are answered."""
LogOf: TypeAlias = Callable[[str], Path | None]
"""Name of a process → where its log goes; None = to stderr."""
Times: TypeAlias = Callable[[], int]
"""How often this process was told to stop: once means in order, twice at once."""


def up(arguments: argparse.Namespace) -> int:
    """Database, interface and workers, each begun again when it dies, ended together; nothing outlives this process."""
    from lampyris.centre import database
    from lampyris.centre.settings import VARIABLE
    from lampyris.cli.up.processes import Processes, alone

    check_reachable(arguments)
    if arguments.demo and not arguments.once and arguments.companion is None:
        arguments.companion = _COMPANION
    check_recipe(arguments)
    _check_demo(arguments)
    settings = settings_of(arguments)
    with _told_to_stop() as times, alone(settings.folder) as lock:
        _check_free(arguments.host, arguments.port, "--port")
        if arguments.dicom_port:
            _check_free(_HERE, arguments.dicom_port, "--dicom-port")
        processes = Processes({VARIABLE: settings.to_json()}, lock)
        try:
            if arguments.demo:
                _demonstrate(arguments, settings, processes, times)
            else:
                _serve(arguments, settings, processes, times)
        finally:
            processes.end(hurry=lambda: times() > 1)
            database.stop(settings)
            processes.close()
    return 0


def _serve(arguments: argparse.Namespace, settings: "Settings", processes: "Processes", times: Times) -> None:
    """Keep all of it running until somebody says stop; logs go to stderr."""
    for each in _programs(arguments, settings, lambda _name: None):
        processes.add(each)
    terminal.say(f"the centre answers at {address_of(arguments)}, its data are in {arguments.data}; Ctrl-C ends it")
    terminal.say(
        "people sign in there; the first of them: lampyris centre person add LOGIN --name NAME --role operator"
        f" --tenant centre --data {arguments.data} --public-url {settings.audience}"
    )
    while not times():
        processes.mend()
        time.sleep(_LOOK_S)
    terminal.say("ends: what is being received or reconstructed is finished first; Ctrl-C again ends at once")


def _demonstrate(arguments: argparse.Namespace, settings: "Settings", processes: "Processes", times: Times) -> None:
    """The same with a demo site, whose scans are shown as they travel; logs go to files."""
    from lampyris.cli.up.demo import Demo, Plan
    from lampyris.cli.up.show import Show

    show = Show()
    plan = Plan(arguments.every, arguments.once, arguments.within)
    demo = Demo(settings, address_of(arguments), plan, show)
    demo.greet()
    with show.moving():
        for each in _programs(arguments, settings, demo.log_of):
            processes.add(each)
        for _ in demo.run(processes):
            for name, code in processes.mend():
                show.said("centre", f"{name} had ended ({code}) and is begun again: {show.place(demo.log_of(name))}")
            if times():
                show.said("centre", "ends: what is in hand is finished first; Ctrl-C again ends at once")
                break
            time.sleep(_LOOK_S)
        show.now("centre", "ends")
        processes.end(hurry=lambda: times() > 1)
    show.said("centre", "has ended, with everything that it had begun")


def _programs(arguments: argparse.Namespace, settings: "Settings", log_of: LogOf) -> "list[Program]":
    from lampyris.centre.settings import VARIABLE
    from lampyris.cli.up.processes import Program

    commands = {"interface": server_command(arguments, processes=1)}
    commands |= {f"worker-{number + 1}": worker_command(PRIORITIES) for number in range(arguments.workers)}
    commands |= {f"stat-worker-{number + 1}": worker_command(["stat"]) for number in range(arguments.stat_workers)}
    if arguments.dicom_port:
        commands["node"] = node_command(_HERE, arguments.dicom_port)
    environment = {VARIABLE: settings.to_json()}
    return [Program(name, tuple(command), environment, log_of(name)) for name, command in commands.items()]


def _check_demo(arguments: argparse.Namespace) -> None:
    if arguments.once and not arguments.demo:
        raise InputError("--once ends with the first series of the demo site: give --demo, too")
    if arguments.demo and arguments.tls_cert is not None:
        raise InputError("the demo site speaks to its own machine without TLS: leave out --tls-cert and --tls-key")
    if arguments.demo and not arguments.workers:
        raise InputError("the demo site's scans need a worker: --workers 1, or more")


def _check_free(host: str, port: int, option: str) -> None:
    """Refuse a port that somebody answers at, before a server fails at it again and again."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise MachineError(
                f"nothing can answer at {host}, port {port} ({error.strerror}): another centre? Choose another {option}"
            ) from error


@contextmanager
def _told_to_stop() -> Iterator[Times]:
    """Count signals instead of dying of them, also when the terminal is closed."""
    times = 0

    def count(*_: object) -> None:
        nonlocal times
        times += 1

    before = {each: signal.signal(each, count) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: times
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
