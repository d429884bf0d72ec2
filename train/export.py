"""Checkpoint → ONNX file of the averaged weights, and its SHA-256: what a recipe names."""

import hashlib
import warnings
from pathlib import Path

import torch

from train.fit import Budget, Run
from train.network import POOL

OPSET = 17


def export(checkpoint: Path, target: Path, *, widths: tuple[int, int, int] | None = None) -> str:
    """Write `target` with free numbers of slices, rows and columns (multiples of `POOL`); returns its digest.

    Inputs `image` (n, 3, rows, columns) and `level` (n, 1, rows, columns), output `denoised` (n, 1, …), float32 HU.
    """
    budget = Budget(steps=1) if widths is None else Budget(steps=1, widths=widths)
    run = Run.fresh(0, budget, "cpu")
    run.load(checkpoint)
    network = run.mean.eval().to(memory_format=torch.contiguous_format)
    image, level = torch.zeros(1, 3, 2 * POOL, 3 * POOL), torch.ones(1, 1, 2 * POOL, 3 * POOL)
    free = {0: "slices", 2: "rows", 3: "columns"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network, (image, level), str(target), input_names=["image", "level"], output_names=["denoised"],
            dynamic_axes={"image": free, "level": free, "denoised": free}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return digest(target)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
