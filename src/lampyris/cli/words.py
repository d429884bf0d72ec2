"""What several commands of the command line have in common: their frame, exit codes and shared options."""

import argparse
from pathlib import Path

CODES = """exit codes: 0 done · 2 wrong usage · 3 the gate stops an image (recon, assess) · 65 the input is at fault
(its sender can mend it) · 69 the machine is (its operator can) · 70 Lampyris is (we must) · 130 interrupted"""


def command(
    sub: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, example: str
) -> argparse.ArgumentParser:
    return sub.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}\n\n{CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def json_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def place(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", type=Path, default=Path("lampyris-centre"), metavar="DIR",
        help="database and objects of the centre (default lampyris-centre); LAMPYRIS_DSN names another database",
    )  # fmt: skip
    command.add_argument("--store", default=None, metavar="URL", help="objects elsewhere, e.g. s3://bucket/prefix")
