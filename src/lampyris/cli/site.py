"""`lampyris site run | send | status | enrol` → the agent beside the scanner, and what its operator asks of it."""

import argparse
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import structlog
from rich.table import Table

from lampyris import site
from lampyris.cli import terminal
from lampyris.cli.terminal import age
from lampyris.model import StorageError

_NO_CHANGE = "it was sent before: --again sends it once more, as another scan"


def run(arguments: argparse.Namespace) -> int:
    """The agent, until SIGINT or SIGTERM; one event a line on stderr."""
    config = site.load(arguments.config)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with site.client(config.centre) as http:
        site.Agent(config, site.Site.load(config.folder), http).run(stop)
    return 0


def send(arguments: argparse.Namespace) -> int:
    """One scan by command: into the spool, for the agent to pack and send."""
    config = site.load(arguments.config)
    try:
        order = site.Order() if arguments.order is None else site.Order.parse(arguments.order.read_bytes())
    except OSError as error:
        raise StorageError(f"the order cannot be read ({error.strerror})") from error
    if arguments.stat:
        order = replace(order, priority="stat")
    free = int(config.spool.free_gb * 1e9)
    spool = site.Spool(config.folder / "spool", now=time.time, free_bytes=free)
    name = site.Site.load(config.folder).enrolment.site
    intake = site.Intake(config, site.Vault.open(config.folder), name, spool)
    scan, new = intake.take(arguments.scan, order, again=arguments.again)
    if arguments.json:
        terminal.machine({"scan": scan, "new": new})
    terminal.say(f"scan {scan}: " + ("accepted; leave the file until it is packed" if new else _NO_CHANGE))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Queue, link and age, from the files of the site alone: it answers while the agent is stopped, too."""
    told = site.status(site.load(arguments.config), names=arguments.names)
    if arguments.json:
        terminal.machine(told)
    else:
        _show(told)
    return 0


def enrol(arguments: argparse.Namespace) -> int:
    """A key of this site's own, and the centre's word for it."""
    config = site.load(arguments.config)
    with site.client(config.centre) as http:
        made = site.enrol(http, config.folder, arguments.code, now=time.time)
    site.Vault.open(config.folder)
    terminal.say(f"enrolled as {made.enrolment.site}, key {made.enrolment.key_id[:12]}…")
    terminal.say(f"back up the keys in {config.folder}: without them no returned series finds its patient")
    return 0


def _show(told: dict[str, Any]) -> None:
    link, queue, now = told["link"], told["queue"], time.time()
    heard = "never" if link["last_answer"] is None else f"{age(now - link['last_answer'])} ago"
    terminal.say(f"agent: {'runs' if told['agent']['running'] else '[red]does not run[/]'}")
    terminal.say(f"link: answer {heard}, {link['sent_bytes'] / 1e6:.1f} MB sent since the start")
    if link["trouble"]:
        terminal.people.print(f"  {link['trouble']}", markup=False, style="yellow")
    states = ", ".join(f"{count} {state}" for state, count in queue["by_state"].items()) or "empty"
    terminal.say(f"queue: {states}; {queue['bytes'] / 1e6:.1f} MB; oldest {age(queue['oldest_s'])}")
    terminal.say(f"delivered: {told['finished']}")
    if told["scans"]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("scan", "priority", "state", "age", "MB", "why it waits", "source"):
            table.add_column(title, overflow="fold")
        for scan in told["scans"]:
            why = "" if scan["reason"] is None else f"{scan['reason'][1]} ({scan['reason'][0]})"
            size = f"{scan['bytes'] / 1e6:.1f}"
            state = scan["state"] + (f" ({scan['centre']})" if scan["centre"] else "")
            row = (scan["scan"][:12], scan["priority"], state, age(scan["age_s"]), size, why, scan.get("source", ""))
            table.add_row(*row)
        terminal.people.print(table)
    for key, why in told["waiting"].items():
        terminal.people.print(f"{key}: {why[1]} ({why[0]})", markup=False, style="yellow")
    for one in told["not_taken"]:
        reason = one["reason"] or ("", "")
        where = f" {one['source']}" if "source" in one else ""
        text = f"not taken {age(one['age_s'])} ago{where}: {reason[1]} ({reason[0]})"
        terminal.people.print(text, markup=False, style="red")
    for scan in told["damaged"]:
        terminal.say(f"[red]scan {scan[:12]}: its files in the spool are damaged: a failing disk?[/]")
