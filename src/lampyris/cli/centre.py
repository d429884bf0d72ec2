"""`lampyris serve | work | node` → the processes of a centre."""

import argparse
import os
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, NoReturn

from lampyris.cli import terminal
from lampyris.model import InputError

if TYPE_CHECKING:  # a reconstruction on the command line needs neither a web server nor a database
    from lampyris.centre import Settings


def settings_of(arguments: argparse.Namespace) -> "Settings":
    """The centre that a command line means. A DSN may hold a password, so it comes from the environment."""
    from lampyris.centre import Settings

    answers = hasattr(arguments, "public_url")
    chosen = {
        "audience": (arguments.public_url or address_of(arguments)) if answers else None,
        "dsn": os.environ.get("LAMPYRIS_DSN"),
        "store": arguments.store,
        "recipe": getattr(arguments, "recipe", None),
        "companion": getattr(arguments, "companion", None),
        "viewer": None if (viewer := getattr(arguments, "viewer", None)) is None else viewer.resolve(),
        "traces": os.environ.get("LAMPYRIS_TRACES"),
        "aet": os.environ.get("LAMPYRIS_AET"),
        "dicom_tls": os.environ.get("LAMPYRIS_DICOM_TLS"),
        "stow_keys": os.environ.get("LAMPYRIS_STOW_KEYS"),
        "oidc": os.environ.get("LAMPYRIS_OIDC"),
        "behind_proxy": getattr(arguments, "behind_proxy", None),
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
    command = worker_command(arguments.queues, metrics_port=arguments.metrics_port, gpu=arguments.gpu)
    _become(command, settings_of(arguments))


def node(arguments: argparse.Namespace) -> int:
    """Answer DICOM nodes until SIGTERM or SIGINT; this process becomes the node."""
    if not (arguments.tls or arguments.plain or _is_loopback(arguments.host)):
        raise InputError(
            f"{arguments.host} can be reached from other machines: give --tls, or --plain where the network between"
            " the nodes is the hospital's own and closed"
        )
    _become(node_command(arguments.host, arguments.port, tls=arguments.tls), settings_of(arguments))


def node_command(host: str, port: int, *, tls: bool = False) -> list[str]:
    """The program that answers DICOM nodes; its settings are in the environment."""
    command = [sys.executable, "-P", "-m", "lampyris.centre.dimse", "--host", host, "--port", str(port)]
    return [*command, "--tls"] if tls else command


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


def worker_command(queues: Sequence[str], *, metrics_port: int = 0, gpu: int | None = None) -> list[str]:
    """The program that reconstructs; its settings are in the environment."""
    command = [sys.executable, "-P", "-m", "lampyris.centre.jobs", "--queues", ",".join(queues)]
    command += ["--metrics-port", str(metrics_port)]
    return command if gpu is None else [*command, "--gpu", str(gpu)]


def _become(command: list[str], settings: "Settings") -> NoReturn:
    """Replace this process by a lighter one, which has the settings in its environment."""
    from lampyris.centre.settings import VARIABLE

    os.execve(command[0], command, {**os.environ, VARIABLE: settings.to_json()})


def queues_of(text: str) -> tuple[str, ...]:
    """Names of queues on a command line."""
    from lampyris.centre.jobs.queue import check_queues

    try:
        return check_queues([name.strip() for name in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def card(text: str) -> int:
    """Number of a card on a command line."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("cards are counted from 0")
    return number


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
    asked = [name for name in (arguments.recipe, arguments.companion) if name is not None]
    if not asked:
        return
    from lampyris import recipes

    for name in asked:
        if name not in recipes.names():
            raise InputError(f"no recipe {name!r}; there are {', '.join(recipes.names())}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
