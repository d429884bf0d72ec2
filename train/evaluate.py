"""A network and held-out scans → the table of its model card: errors by tissue, means, edges, beside an equal blur.

`bias` is the root mean square of the error that is left after averaging over noise, from products of different noises'
errors and so without the noise itself. The blur is the Gaussian that leaves the same noise in soft tissue.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.optimize import brentq

from lampyris.model import Bool, Float32, Float64
from lampyris.recon.learned import Denoiser, denoiser
from train.held_out import RODS, Scan

TISSUES = {"lung": (-980.0, -600.0), "soft": (-150.0, 150.0), "bone": (180.0, 3000.0), "whole body": (-980.0, 3000.0)}
"""HU of the noise-free image; a tissue's outermost pixels are left out, the whole body has them."""
LEAST_VOXELS = 400
HEAD = "| case | kernel | dose | tissue | noise HU | RMSE after | RMSE blur | bias | bias blur | mean moved ± |\n"
RODS_HEAD = "| case | kernel | dose | rod HU | f50 after/before | f50 blur/before | contrast after/before |\n"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Images (noises, slices, rows, columns) of one scan: as they came, denoised, blurred as much; inner slices."""

    scan: Scan
    clean: Float32
    noisy: Float32
    denoised: Float32
    blurred: Float32

    def tissue(self, name: str) -> Bool:
        low, high = TISSUES[name]
        mask = (self.clean > low) & (self.clean < high)
        if name != "whole body":
            mask = binary_erosion(mask, np.ones((1, 3, 3)))
        return np.asarray(mask, np.bool_)


def table(name: str, scans: list[Scan], pictures: Path | None) -> str:
    """Markdown with one line a case and tissue, and one a rod; PNG files of the middle slices if a folder is given."""
    network = Denoiser.load(name, denoiser.digest_of(name))
    tissues, rods = [], []
    for scan in scans:
        outcome = run(network, scan)
        case = f"| {scan.name} | {scan.kernel} | {scan.dose:g} "
        tissues += [case + line for line in _tissues(outcome)]
        rods += [case + line for line in _rods(outcome)]
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            picture(outcome, pictures / f"{scan.name}-{scan.kernel}-{scan.dose:g}.png")
    head = f"Network {name}, SHA-256 {network.sha256}\n\n"
    rule = "|---|---|---|---|---|---|---|---|---|---|\n"
    return head + HEAD + rule + "".join(tissues) + "\n" + RODS_HEAD + rule[: 4 * 7 + 1] + "\n" + "".join(rods)


def run(network: Denoiser, scan: Scan) -> Outcome:
    """Denoise every noise of a scan; the blur's width is found on soft tissue (or on all, where there is none)."""
    noisy = scan.clean + scan.noise
    denoised = np.stack([network.denoise(np.ascontiguousarray(one), scan.level) for one in noisy])
    inner = slice(1, -1)
    soft = (scan.clean[inner] > TISSUES["soft"][0]) & (scan.clean[inner] < TISSUES["soft"][1])
    goal = float(denoised[:, inner].std(axis=0, ddof=1)[soft].mean())

    def excess(width: float) -> float:
        return float(_blurred(noisy, width)[:, inner].std(axis=0, ddof=1)[soft].mean()) - goal

    width = brentq(excess, 0.05, 8.0, xtol=0.02)
    return Outcome(scan, scan.clean[inner], noisy[:, inner], denoised[:, inner], _blurred(noisy, width)[:, inner])


def _blurred(images: Float32, width: float) -> Float32:
    return np.asarray(gaussian_filter(images, (0, 0, width, width)), np.float32)


def _tissues(outcome: Outcome) -> list[str]:
    lines = []
    for name in TISSUES:
        mask = outcome.tissue(name)
        if mask.sum() < LEAST_VOXELS:
            continue
        before, after, blur = (
            (each - outcome.clean)[:, mask].astype(np.float64)
            for each in (outcome.noisy, outcome.denoised, outcome.blurred)
        )
        moved = (after - before).mean(axis=1)
        lines.append(
            f"| {name} | {_rms(before):.1f} | {_rms(after):.1f} | {_rms(blur):.1f} | {_bias(after):.1f}"
            f" | {_bias(blur):.1f} | {moved.mean():+.2f} ± {moved.std(ddof=1) / len(moved) ** 0.5:.2f} |\n"
        )
    return lines


def _rms(errors: Float64) -> float:
    return float(np.sqrt((errors**2).mean()))


def _bias(errors: Float64) -> float:
    """⟨e_i·e_j⟩ over pairs i ≠ j of n noises = (n²·ē² − Σ e_i²)/(n·(n − 1)), its root where it is above 0."""
    n = len(errors)
    square = ((errors.sum(axis=0) ** 2 - (errors**2).sum(axis=0)) / (n * (n - 1))).mean()
    return float(np.sqrt(max(square, 0.0)))


def _rods(outcome: Outcome) -> list[str]:
    lines = []
    for (contrast, radius_mm), (row, column) in zip(RODS, outcome.scan.rods, strict=True):
        radius = radius_mm / outcome.scan.pixel_mm
        images = (outcome.clean, outcome.denoised.mean(axis=0), outcome.blurred.mean(axis=0))
        found = [_edge(each.mean(axis=0), row, column, radius) for each in images]
        (sharp, depth), (after, left), (blur, _) = found
        lines.append(f"| {contrast:+.0f} | {after / sharp:.2f} | {blur / sharp:.2f} | {left / depth:.2f} |\n")
    return lines


def _edge(image: Float32, row: float, column: float, radius: float) -> tuple[float, float]:
    """Frequency (1/pixel) at which the edge's transfer falls to a half, and the rod's contrast, core over ring."""
    rows, columns = np.indices(image.shape)
    away = np.hypot(rows - row, columns - column)
    contrast = float(image[away < 0.6 * radius].mean() - image[(away > 1.4 * radius) & (away < 1.8 * radius)].mean())
    step = 0.25
    centres = np.arange(max(0.0, radius - 6.0), radius + 6.0, step)
    edge = np.array([np.average(image[near], weights=1 - np.abs(away[near] - at) / 0.75)
                     for at in centres if (near := np.abs(away - at) < 0.75).any()])  # fmt: skip
    line = np.diff(edge) * np.hanning(len(edge) - 1)
    transfer = np.abs(np.fft.rfft(line, 4096))
    transfer /= transfer[0]
    below = int(np.argmax(transfer < 0.5))
    return float(np.fft.rfftfreq(4096, step)[below]), contrast


def picture(outcome: Outcome, path: Path) -> None:
    """Clean, noisy, denoised and what was taken away and left, side by side, middle slice, soft and lung windows."""
    middle = outcome.clean.shape[0] // 2
    clean, noisy, denoised = outcome.clean[middle], outcome.noisy[0, middle], outcome.denoised[0, middle]
    level = float(outcome.scan.level[middle + 1].mean())
    rows = []
    for low, high in ((-160.0, 240.0), (-1000.0, -200.0)):
        shown = [(each - low) / (high - low) for each in (clean, noisy, denoised)]
        left = outcome.denoised[:, middle].mean(axis=0) - clean
        shown += [0.5 + (noisy - denoised) / (6 * level), 0.5 + left / (3 * level)]
        rows.append(np.concatenate(shown, axis=1))
    grey = np.clip(np.concatenate(rows, axis=0), 0, 1) * 255
    Image.fromarray(grey.astype(np.uint8)).save(path)
