"""Arguments → one command, and its error → an exit code that says who can put it right."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lampyris import __version__
from lampyris.cli import site
from lampyris.cli.terminal import machine, people
from lampyris.cli.words import CODES
from lampyris.cli.words import command as _command
from lampyris.cli.words import json_option as _json
from lampyris.cli.words import place as _place
from lampyris.model import LampyrisError, MachineError
from lampyris.raw import CODINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry point."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except ModuleNotFoundError as error:
        absent = (error.name or "").partition(".")[0]
        if absent in ("", "lampyris"):
            raise
        people.print(
            f"lampyris: {absent} is not installed. Here is what a site needs, `lampyris site --help`; for all the rest:"
            " pip install 'lampyris\\[centre]' \\[MACHINE]", style="red", soft_wrap=True,
        )  # fmt: skip
        return MachineError.exit_code


def _run(words: list[str]) -> int:
    """Run one command; ModuleNotFoundError where its packages are not installed."""
    wanted = "site" if words[:1] == ["--version"] else words[0] if words else None
    chosen = parser(wanted).parse_args(words)
    try:
        return int(chosen.run(chosen))
    except LampyrisError as error:
        if getattr(chosen, "json", False):
            machine({"error": {"code": error.code, "message": str(error), "retry": error.retry}})
        people.print(f"lampyris: {error} \\[{error.code}]", style="red", soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        people.print("lampyris: interrupted; no half-made result was left", style="yellow")
        return 130


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """All commands and their help, or one: a site's old PC loads no science, and a centre starts without it."""
    root = argparse.ArgumentParser(
        prog="lampyris",
        description="The open cloud-CT centre: raw counts in, a judged CT series out. Research software.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"lampyris {__version__}")
    sub = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    light = {"site": _site, "serve": _serving, "work": _serving, "node": _serving, "up": _serving, "centre": _centre}
    if command in light:
        light[command](sub)
        return root
    for each in (_site, _journey, _simulate, _dose_study, _recon, _assess, _raw, _doctor, _serving, _centre):
        each(sub)
    return root


def _reading(command: argparse.ArgumentParser) -> None:
    command.add_argument("--kv", type=float, default=None, help="tube voltage where the scan does not say it (kV)")
    command.add_argument("--central-column", type=float, default=None, help="rotation axis where it does not say it")


def _virtual(command: argparse.ArgumentParser) -> None:
    command.add_argument("--scanner", default="mdct64", metavar="P", help="scanner preset (default mdct64)")
    command.add_argument("--protocol", default="helical", choices=("helical", "axial"), help="default helical")
    _reading(command)
    command.add_argument("--mas", type=float, default=100.0, help="mAs per turn at full dose (default 100)")
    command.add_argument("--pitch", type=float, default=1.0, help="helical pitch (default 1)")
    command.add_argument(
        "--range", type=float, nargs=2, default=None, metavar=("FIRST", "LAST"), dest="span",
        help="slices to cover, mm along the table from the isocentre (default: the whole subject)",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all noise (default 0)")


def _recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recipe", default=None, help="a recipe's name or .json file (default: routine)")
    _grid(command)
    command.add_argument(
        "--engine", default="cpu", choices=("cpu", "cuda"),
        help="what computes the images: the processor, or this machine's card (default cpu)",
    )  # fmt: skip
    command.add_argument("--enhanced", action="store_true", help="write one Enhanced CT object instead of CT Images")


def _grid(command: argparse.ArgumentParser) -> None:
    command.add_argument("--kernel", default=None, help="another kernel than the recipe's")
    command.add_argument(
        "--fov", type=float, default=None, metavar="MM", help="field of view (default: holds the body)"
    )
    command.add_argument("--matrix", type=int, default=None, metavar="N", help="rows and columns (default 512)")
    command.add_argument("--thickness", type=float, default=None, metavar="MM", help="slice thickness")
    command.add_argument("--increment", type=float, default=None, metavar="MM", help="slice increment")


def _journey(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import commands

    command = _command(
        sub,
        "journey",
        "scan or read, correct, reconstruct, judge, write DICOM and one page",
        "lampyris journey chest/ -o out",
    )
    command.add_argument(
        "source", nargs="?", help="DICOM folder or archive, NIfTI, or raw scan (default: 90 mm of the thorax phantom)"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--dose", type=float, default=0.1, metavar="F", help="the lower dose beside full dose (default 0.1)"
    )
    command.add_argument("--replace", action="store_true", help="replace the journey that DIR holds")
    _virtual(command)
    _recipe(command)
    _json(command)
    command.set_defaults(run=commands.journey)


def _simulate(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import commands

    command = _command(
        sub, "simulate", "scan a phantom, a CT series or a NIfTI volume, or lower the dose of a raw scan",
        "lampyris simulate thorax -o scan.lraw --dose 0.1",
    )  # fmt: skip
    command.add_argument(
        "source", help="DICOM folder or archive, NIfTI, raw scan, or a phantom: thorax, water20, water32, quality"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="SCAN.lraw")
    command.add_argument("--dose", type=float, default=1.0, metavar="F", help="fraction of the full dose (default 1)")
    _virtual(command)
    _json(command)
    command.set_defaults(run=commands.simulate)


def _dose_study(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import dose_study

    command = _command(
        sub, "dose-study", "compare recipes over many doses of one source: tables, curves, pictures and one page",
        "lampyris dose-study thorax -o study --range -20 70 --doses 1,0.2,0.1 --recipes routine,model",
    )  # fmt: skip
    command.add_argument("source", help="DICOM folder or archive, NIfTI, raw scan with known noise, or a phantom")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="an interrupted study in DIR goes on"
    )
    command.add_argument(
        "--doses", type=dose_study.fractions, default=dose_study.DOSES, metavar="F,F,…",
        help="fractions of the full dose (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--recipes", type=dose_study.names, default=dose_study.RECIPES, metavar="NAME,NAME,…",
        help="names or .json files; the first is the baseline (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--seeds", type=dose_study.count, default="3", metavar="N", help="realisations of the noise (default 3)"
    )
    command.add_argument("--truth", default=None, metavar="SOURCE", help="what was scanned, where the source is a scan")
    command.add_argument(
        "--no-passport", action="store_true", help="judge images without their passport, which costs time"
    )
    _virtual(command)
    _grid(command)
    _json(command)
    command.set_defaults(run=dose_study.dose_study)


def _recon(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import commands

    command = _command(
        sub,
        "recon",
        "correct and reconstruct a raw scan, judge the image and write DICOM",
        "lampyris recon scan.lraw -o series",
    )
    command.add_argument("scan", help="a raw scan in any format that `lampyris raw info` reads")
    _reading(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    _recipe(command)
    _json(command)
    command.set_defaults(run=commands.recon)


def _assess(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import commands

    command = _command(
        sub, "assess", "measure the quality and dose of a CT series", "lampyris assess series --truth thorax --json"
    )
    command.add_argument("series", help="DICOM folder or archive, or NIfTI")
    command.add_argument(
        "--truth", default=None, metavar="SOURCE", help="what was scanned: a series, a volume or a phantom's name"
    )
    command.add_argument("--recipe", default="routine", help="whose limits the gate uses (default routine)")
    _json(command)
    command.set_defaults(run=commands.assess)


def _raw(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import commands

    command = _command(sub, "raw", "look into, convert or verify raw scans", "lampyris raw info scan.lraw")
    inner = command.add_subparsers(title="commands", required=True, metavar="COMMAND")
    info = _command(
        inner, "info", "show what a raw scan holds, without reading its counts", "lampyris raw info scan.lraw"
    )
    info.add_argument("scan")
    _json(info)
    info.set_defaults(run=commands.raw_info)
    convert = _command(
        inner,
        "convert",
        "convert any readable raw scan into .lraw, or into a DICOM-CT-PD folder",
        "lampyris raw convert tooth.h5 -o tooth.lraw",
    )
    convert.add_argument("scan")
    convert.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="NAME.lraw, or a folder for DICOM-CT-PD"
    )
    convert.add_argument(
        "--coding", default=None, choices=tuple(CODINGS),
        help="code NAME.lraw for a link: every count as it is, or in steps of its noise (default: made for a disk)",
    )  # fmt: skip
    _reading(convert)
    _json(convert)
    convert.set_defaults(run=commands.raw_convert)
    verify = _command(
        inner, "verify", "read every byte of a .lraw and check it against its digests", "lampyris raw verify scan.lraw"
    )
    verify.add_argument("scan", type=Path)
    _json(verify)
    verify.set_defaults(run=commands.raw_verify)


def _doctor(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import doctor

    command = _command(
        sub, "doctor", "report engines, card and versions, with a self-test of every engine", "lampyris doctor"
    )
    _json(command)
    command.set_defaults(run=doctor.doctor)


def _reachable(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to answer at (default 127.0.0.1)")
    command.add_argument("--port", type=int, default=8470, help="port to answer at (default 8470)")
    command.add_argument("--public-url", default=None, metavar="URL", help="what sites know the centre by")
    command.add_argument("--tls-cert", type=Path, default=None, metavar="PEM")
    command.add_argument("--tls-key", type=Path, default=None, metavar="PEM")
    command.add_argument("--behind-proxy", action="store_true", help="a proxy in front of it speaks TLS")
    command.add_argument(
        "--viewer", type=Path, default=None, metavar="DIR", help="folder of the reading viewer (default: DATA/viewer)"
    )


def _serving(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import centre
    from lampyris.cli import up as running

    default = "the recipe of scans that name none (default: routine)"
    companion = "with what every scan is made once more when workers are idle, to be compared with (default: none)"
    serve = _command(sub, "serve", "answer sites: take raw scans, give series back", "lampyris serve --data /srv/ct")
    _place(serve)
    _reachable(serve)
    serve.add_argument("--processes", type=int, default=1, metavar="N", help="server processes (default 1)")
    serve.set_defaults(run=centre.serve)
    work = _command(
        sub, "work", "reconstruct the scans of a centre, one after the other", "lampyris work --queues stat,routine"
    )
    _place(work)
    work.add_argument(
        "--queues", type=centre.queues_of, default="stat,routine,batch", metavar="NAME,…",
        help="of stat, routine, batch (default all)",
    )  # fmt: skip
    work.add_argument("--recipe", default=None, help=default)
    work.add_argument("--companion", default=None, metavar="RECIPE", help=companion)
    work.add_argument(
        "--gpu", type=centre.card, default=None, metavar="N",
        help="hold card N, as nvidia-smi counts, and compute every image on it (default: no card)",
    )  # fmt: skip
    work.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="Prometheus text on this machine")
    work.set_defaults(run=centre.work)
    node = _command(
        sub, "node", "answer DICOM nodes: store, query, retrieve, worklist; send to them", "lampyris node --port 11112"
    )
    _place(node)
    node.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default 127.0.0.1)")
    node.add_argument("--port", type=int, default=11112, metavar="PORT", help="port to listen at (default 11112)")
    node.add_argument("--tls", action="store_true", help="associations by TLS alone, with LAMPYRIS_DICOM_TLS")
    node.add_argument(
        "--plain", action="store_true", help="without TLS beyond this machine: the network is the hospital's own"
    )
    node.set_defaults(run=centre.node)
    up = _command(sub, "up", "serve and work on this machine, until Ctrl-C", "lampyris up --demo --once")
    _place(up)
    _reachable(up)
    up.add_argument("--workers", type=int, default=1, metavar="N", help="workers for every queue (default 1)")
    up.add_argument("--stat-workers", type=int, default=0, metavar="N", help="workers for STAT alone (default 0)")
    up.add_argument("--recipe", default=None, help=default)
    up.add_argument("--companion", default=None, metavar="RECIPE", help=companion)
    up.add_argument(
        "--dicom-port", type=int, default=11112, metavar="PORT",
        help="answer DICOM nodes of this machine there, 0 = not (default 11112)",
    )  # fmt: skip
    demo = up.add_argument_group("a demonstration", "a site on this machine, whose scans of a phantom are shown")
    demo.add_argument("--demo", action="store_true", help="scan at a tenth of the dose every so often")
    demo.add_argument(
        "--every", type=float, default=60.0, metavar="S", help="seconds from one series to the next scan (default 60)"
    )
    demo.add_argument("--once", action="store_true", help="end by itself when the first series is home, with exit 0")
    demo.add_argument(
        "--within", type=float, default=900.0, metavar="S", help="with --once: give up after this long (default 900)"
    )
    up.set_defaults(run=running.up)


def _centre(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from lampyris.cli import audit, dose, network, operate, people

    inner = operate.add(sub)
    people.add(inner)
    network.add(inner)
    audit.add(inner)
    dose.add(inner)


def _site(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(sub, "site", "bring scans to a centre and series to the PACS", "lampyris site run -c site.toml")
    inner = command.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = _command(inner, "run", "watch, pack, send, fetch and forward, until Ctrl-C", "lampyris site run -c site.toml")
    run.set_defaults(run=site.run)
    send = _command(
        inner,
        "send",
        "put a scan into the spool; the agent packs and sends it from where it lies",
        "lampyris site send scan.lraw --order order.json --stat",
    )
    send.add_argument("scan", type=Path, help="a raw scan in any format that `lampyris raw info` reads")
    send.add_argument("--order", type=Path, default=None, metavar="JSON", help="purpose, priority, recipe and study")
    send.add_argument("--stat", action="store_true", help="before every other scan, whatever the order says")
    send.add_argument("--again", action="store_true", help="also if it was sent before: as another scan")
    send.set_defaults(run=site.send)
    status = _command(inner, "status", "show queue, link and age", "lampyris site status --json")
    status.add_argument("--names", action="store_true", help="show where scans came from; a name may be a patient's")
    status.set_defaults(run=site.status)
    enrol = _command(
        inner, "enrol", "make this site known to its centre", "lampyris site enrol K7Q2M-3XV0A-9TBNC-W5H1D -c site.toml"
    )
    enrol.add_argument("code", metavar="CODE", help="the one-time code that the centre's operator gave out")
    enrol.set_defaults(run=site.enrol)
    for each in (run, send, status, enrol):
        each.add_argument(
            "-c", "--config", type=Path, default=Path("site.toml"), metavar="TOML", help="default site.toml"
        )
    for each in (send, status):
        _json(each)


if __name__ == "__main__":
    sys.exit(main())
