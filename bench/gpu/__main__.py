"""`python -m bench.gpu [--quick] [--compile 9.0]` → the CUDA engine on this machine's card, as markdown.

First whether it is right (against the CPU engine), then the card's two limits, then every direction's time over its
floor. `--compile` needs no card: it tells what the kernels become.
`--quick` is for the simulator: the same steps, sizes of nothing.
"""

import argparse
import sys

from lampyris.model import EngineUnavailable

UNAVAILABLE = 69


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--compile", metavar="CAPABILITY")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    try:
        if chosen.compile:
            print("\n".join(_compiled(chosen.compile)))
        else:
            print("\n".join(_measured(quick=chosen.quick)))
    except EngineUnavailable as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    return 0


def _compiled(text: str) -> list[str]:
    from bench.gpu.compiled import compiled

    major, minor = (int(each) for each in text.split("."))
    lines = [f"| kernel, sm_{major}{minor} | .f64 in PTX | registers | bytes spilled |", "|---|---|---|---|"]
    return lines + [f"| `{k.name}` | {k.doubles} | {k.registers} | {k.spilled} |" for k in compiled((major, minor))]


def _measured(*, quick: bool) -> list[str]:
    from lampyris.projector.cuda import card

    here = card()
    from bench.gpu import pairs
    from bench.gpu.ceilings import ceilings

    limits = ceilings(count=512, steps=2) if here.simulated else ceilings(count=1 << 29, steps=4096)
    found = pairs.cases(quick=quick)
    lines = [
        f"{here.name}, {here.memory_bytes / 2**30:.0f} GiB: copies {limits.bytes_per_s / 1e9:.0f} GB/s,"
        f" {limits.flops_per_s / 1e12:.2f} TFLOP/s in float32",
        "",
        "| case | forward off | adjoint off | pair off | voxels off |",
        "|---|---|---|---|---|",
    ]
    for case in (each for each in found if each.judged):
        off = pairs.judged(case)
        lines.append(
            f"| {case.name} | {off['forward']:.1e} | {off['adjoint']:.1e} | {off['pair']:.1e} | {off['voxels']:.1e} |"
        )
    lines += ["", "| case | direction | seconds | over the floor |", "|---|---|---|---|"]
    for case in found:
        for direction, (took, over) in pairs.timed(case, limits).items():
            lines.append(f"| {case.name} | {direction} | {took:.3f} | {over:.1f} × |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
