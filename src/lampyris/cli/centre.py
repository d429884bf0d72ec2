"""`lampyris serve | work | centre …` → the processes of a centre, and what its operator does with it."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lampyris.cli import terminal
from lampyris.model import InputError

if TYPE_CHECKING:  # a reconstruction on the command line needs neither a web server nor a database
    from lampyris.centre import Centre, Settings
    from lampyris.centre.database import Connection

T = TypeVar("T")


def settings_of(arguments: argparse.Namespace) -> "Settings":
    """The centre that a command line means. A DSN may hold a password, so it comes from the environment."""
    from lampyris.centre import Settings

    answers = hasattr(arguments, "host")
    chosen = {
        "audience": (arguments.public_url or address_of(arguments)) if answers else None,
        "dsn": os.environ.get("LAMPYRIS_DSN"),
        "store": arguments.store,
        "recipe": getattr(arguments, "recipe", None),
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    return Settings(arguments.data.resolve(), **given)


def serve(arguments: argparse.Namespace) -> int:
    """Answer sites until SIGTERM or SIGINT; this process becomes the server."""
    check_reachable(arguments)
    terminal.say(f"the centre answers at {address_of(arguments)}")
    _become(server_command(arguments, processes=arguments.processes), settings_of(arguments))


def work(arguments: argparse.Namespace) -> int:
    """Reconstruct one scan after the other until SIGTERM or SIGINT; this process becomes the worker."""
    check_recipe(arguments)
    _become(worker_command(arguments.queues, metrics_port=arguments.metrics_port), settings_of(arguments))


def server_command(arguments: argparse.Namespace, *, processes: int) -> list[str]:
    """The program that answers sites; its settings are in the environment."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "lampyris.centre.api",
        "--host",
        arguments.host,
        "--port",
        str(arguments.port),
    ]
    command += ["--processes", str(processes)]
    if arguments.tls_cert is not None:
        command += ["--tls-cert", str(arguments.tls_cert), "--tls-key", str(arguments.tls_key)]
    return command


def worker_command(queues: Sequence[str], *, metrics_port: int = 0) -> list[str]:
    """The program that reconstructs; its settings are in the environment."""
    command = [sys.executable, "-P", "-m", "lampyris.centre.jobs", "--queues", ",".join(queues)]
    return [*command, "--metrics-port", str(metrics_port)]


def _become(command: list[str], settings: "Settings") -> NoReturn:
    """Replace this process by a lighter one, which has the settings in its environment."""
    from lampyris.centre.settings import VARIABLE

    os.execve(command[0], command, {**os.environ, VARIABLE: settings.to_json()})


def invite(arguments: argparse.Namespace) -> int:
    """A one-time code for a site."""
    from lampyris.centre import access

    code = _with_database(arguments, lambda connection: access.invite(connection, arguments.site))
    if arguments.json:
        terminal.machine({"site": arguments.site, "code": code, "hours": access.CODE_HOURS})
    terminal.say(f"code for {arguments.site}, good for {access.CODE_HOURS} hours and one key: {code}")
    return 0


def suspend(arguments: argparse.Namespace) -> int:
    """Shut a site out, or let it in again."""
    from lampyris.centre import access

    suspended = not arguments.undo
    _with_database(arguments, lambda connection: access.suspend(connection, arguments.site, suspended=suspended))
    terminal.say(f"{arguments.site} is {'shut out' if suspended else 'let in'}")
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Queue a failed scan again."""
    from lampyris.centre.jobs import queue

    async def run(centre: "Centre") -> bool:
        async with centre.pool.connection() as connection:
            return await queue.release(connection, centre.jobs, arguments.site, arguments.scan)

    if not _with_centre(arguments, run):
        raise InputError("there is no such scan that has failed and whose raw data are still here")
    terminal.say("the scan is queued again")
    return 0


def forget(arguments: argparse.Namespace) -> int:
    """Delete everything of a scan that has ended."""
    from lampyris.centre.jobs import retention

    async def run(centre: "Centre") -> bool:
        async with centre.pool.connection() as connection:
            return await retention.forget(connection, centre.store, arguments.site, arguments.scan)

    if not _with_centre(arguments, run):
        raise InputError("there is no such scan that has ended")
    terminal.say("raw data, series and record of the scan are deleted")
    return 0


def queues_of(text: str) -> tuple[str, ...]:
    """Names of queues on a command line."""
    from lampyris.centre.jobs.queue import check_queues

    try:
        return check_queues([name.strip() for name in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _with_centre(arguments: argparse.Namespace, action: "Callable[[Centre], Awaitable[T]]") -> T:
    from lampyris.centre import opened

    async def run() -> T:
        async with opened(settings_of(arguments), connections=4) as centre:
            return await action(centre)

    return asyncio.run(run())


def _with_database(arguments: argparse.Namespace, action: "Callable[[Connection], Awaitable[T]]") -> T:
    async def run(centre: "Centre") -> T:
        async with centre.pool.connection() as connection:
            return await action(connection)

    return _with_centre(arguments, run)


def address_of(arguments: argparse.Namespace) -> str:
    """Where a centre answers."""
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    return f"{'https' if arguments.tls_cert else 'http'}://{host}:{arguments.port}"


def check_reachable(arguments: argparse.Namespace) -> None:
    """Without TLS a centre speaks to its own machine alone: what it hears are scans of patients."""
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise InputError("TLS needs both --tls-cert and --tls-key")
    if arguments.tls_cert is None and not arguments.behind_proxy and not _is_loopback(arguments.host):
        raise InputError(
            f"{arguments.host} can be reached from other machines: give --tls-cert and --tls-key, or --behind-proxy"
            " when a proxy in front of it speaks TLS"
        )


def check_recipe(arguments: argparse.Namespace) -> None:
    """InputError for a recipe that there is not, before anything is started."""
    if arguments.recipe is None:
        return
    from lampyris import recipes

    if arguments.recipe not in recipes.names():
        raise InputError(f"no recipe {arguments.recipe!r}; there are {', '.join(recipes.names())}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
