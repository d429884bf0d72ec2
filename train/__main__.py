"""The learned prior, from shared data to a file that recipes name: `python -m train pairs | fit | export | evaluate`.

In this order, from the project's root, all files under build/train (change with --work):

    python -m train pairs --data ../shared/data --bodies 60        # three pairs a body, some 10 s of a core each
    python -m train fit --steps 8000 --minutes 75                  # resumes from build/train/firefly.pt if it is there
    python -m train export src/lampyris/recon/learned/models/firefly-1.onnx    # prints the SHA-256
    python -m train evaluate firefly-1 --data ../shared/data       # the table of docs/models/firefly-1.md

`pairs` may run in several processes with --first 0, 1 … and --stride; `fit` takes the pairs that are there when it
starts, on CUDA if there is one. Seeds are arguments and have defaults.
"""

import argparse
import sys
from pathlib import Path

from train import evaluate, export, fit, held_out, pairs

WORK, DATA = Path("build/train"), Path("../shared/data")


def main(words: list[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    checkpoint = arguments.work / "firefly.pt"
    if arguments.command == "pairs":
        pairs.make(arguments.work, arguments.data, seed=arguments.seed, first=arguments.first,
                   bodies=arguments.bodies, stride=arguments.stride)  # fmt: skip
    elif arguments.command == "fit":
        budget = fit.Budget(arguments.steps, arguments.minutes, arguments.crops, arguments.size)
        fit.fit(arguments.work, checkpoint, budget, seed=arguments.seed, until=arguments.until)
    elif arguments.command == "export":
        sys.stdout.write(f"{export.export(checkpoint, arguments.target)}\n")
    else:
        sys.stdout.write(
            evaluate.table(arguments.name, held_out.load(arguments.data, arguments.work), arguments.pictures)
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--work", type=Path, default=WORK, help="folder of pairs and checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pairs", help="virtual scans")
    one.add_argument("--data", type=Path, default=DATA)
    one.add_argument("--seed", type=int, default=2026)
    one.add_argument("--first", type=int, default=0)
    one.add_argument("--bodies", type=int, default=60)
    one.add_argument("--stride", type=int, default=1)
    one = commands.add_parser("fit", help="train, or go on training")
    one.add_argument("--seed", type=int, default=2026)
    one.add_argument("--steps", type=int, default=8000, help="length of the schedule")
    one.add_argument("--minutes", type=float, default=None, help="wall clock that shortens it")
    one.add_argument("--until", type=int, default=None, metavar="STEP", help="break off there, to be resumed")
    one.add_argument("--crops", type=int, default=8)
    one.add_argument("--size", type=int, default=128)
    one = commands.add_parser("export", help="ONNX file and digest")
    one.add_argument("target", type=Path)
    one = commands.add_parser("evaluate", help="figures on held-out anatomy")
    one.add_argument("name", help="network among those of lampyris.recon.learned")
    one.add_argument("--data", type=Path, default=DATA)
    one.add_argument("--pictures", type=Path, default=None, help="folder for PNG files")
    return parser


if __name__ == "__main__":
    main()
