"""`python -m bench.iterative [--quick] [--write]`: our iterative images beside mbirjax' on the same data → a table.

Both minimise ½‖Ax − p‖²_W + β Σ ψ(x_j − x_k) over x ≥ 0 with the q-GGMRF of six neighbours, q = 1.2, the same c and β:
mbirjax writes Σ ρ(t)/6 with ρ = ψ/σ_x², c = T·σ_x and σ_y = 1, ours β·Σ ψ/Δ², hence β = Δ²/(6σ_x²). Each code is run
to its own converged image; how far it still was from it is told over its iterations and seconds, start image included.
Then the error against the truth, each at the best of three strengths. Every code has a process of its own; run this
with an interpreter that has the `bench` extra. `--quick` is half of the size in every direction but views;
`--write` keeps the table as docs/evidence/iterative.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import FENCES, THREADS
from lampyris.model import Gantry, Geometry, Grid, GridRequest, Projections, Step
from lampyris.recon.iterative.certainty import certainty, strength

FIELD_MM, HEIGHT_MM, WATER = 256.0, 64.0, 0.02
SOURCE_MM, DETECTOR_MM = 541.0, 949.0
PHOTONS, SEED = 2.0e4, 20261121
WEIGHT, C_HU, Q = 1000.0, 10.0, 1.2
LADDER = (0.25, 1.0, 4.0)
"""Factors of the strength that every method is tried at."""
THEIR_ITERATIONS, THEIR_END = (1, 2, 3, 5, 8, 12, 18), 120
OUR_PASSES, OUR_END = 18, 240
LEVELS_HU = (10.0, 5.0, 2.0, 1.0)


@dataclass(frozen=True)
class Ellipsoid:
    """{p : Σ ((p − centre)/semi)² < 1}, x y z in mm, adding `value` in 1/mm."""

    centre: tuple[float, float, float]
    semi: tuple[float, float, float]
    value: float

    def chord_mm(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        start, way = (origins - np.asarray(self.centre)) / self.semi, directions / np.asarray(self.semi)
        a, b = (way * way).sum(-1), (start * way).sum(-1)
        return np.asarray(2 * np.sqrt(np.maximum(b * b - a * ((start * start).sum(-1) - 1), 0)) / a)

    def holds(self, points: np.ndarray) -> np.ndarray:
        return np.asarray((((points - np.asarray(self.centre)) / self.semi) ** 2).sum(-1) < 1)


BODY = (
    Ellipsoid((0.0, 0.0, 0.0), (97.0, 29.0, 66.0), WATER),
    Ellipsoid((-46.0, 0.0, 11.0), (28.0, 20.0, 33.0), -0.75 * WATER),
    Ellipsoid((-41.0, 2.0, 14.0), (6.0, 6.0, 6.0), 0.75 * WATER),
    Ellipsoid((41.0, 3.0, -24.0), (11.0, 9.0, 11.0), 0.8 * WATER),
    Ellipsoid((30.0, -4.0, 27.0), (14.0, 12.0, 14.0), 0.05 * WATER),
    Ellipsoid((67.0, 1.0, 6.0), (8.0, 8.0, 8.0), 0.15 * WATER),
)


@dataclass(frozen=True)
class Scene:
    """Flat-detector cone beam of `views` over a circle and a lattice of `matrix`² × `matrix`/4 cubes."""

    matrix: int
    views: int

    @property
    def voxel_mm(self) -> float:
        return FIELD_MM / self.matrix

    @property
    def cell_mm(self) -> float:
        return 1.5 * self.voxel_mm

    @property
    def grid(self) -> Grid:
        return Grid.centred((self.matrix // 4, self.matrix, self.matrix), (self.voxel_mm,) * 3)

    @property
    def sigma_x(self) -> float:
        """Theirs, such that low contrast passes half at 0.3 cycles a voxel where the weight is `WEIGHT`.

        β = `WEIGHT`·Aᵀ1·strength(0.3/Δ), see `recon.iterative.certainty`, and σ_x² = Δ²/(6β).
        """
        rays = self.views * self.voxel_mm**3 / (self.cell_mm * SOURCE_MM / DETECTOR_MM) ** 2
        return float(np.sqrt(self.voxel_mm**2 / 6 / (WEIGHT * rays * strength(0.3 / self.voxel_mm))))

    @property
    def geometry(self) -> Geometry:
        return self.divided(1)

    def divided(self, parts: int) -> Geometry:
        """Every cell in parts × parts."""
        rows, columns = (parts * int(np.ceil(mm / self.cell_mm)) for mm in (150.0, 430.0))
        gantry = Gantry(SOURCE_MM, DETECTOR_MM, rows, columns, (self.cell_mm / parts, self.cell_mm / parts), False)
        return Geometry.circular(gantry, np.arange(self.views) * 360.0 / self.views)

    def truth(self) -> np.ndarray:
        """Mean over 4 × 4 × 4 points of every voxel, 1/mm."""
        fine = Grid.centred(tuple(4 * n for n in self.grid.shape), (self.voxel_mm / 4,) * 3)
        out = np.zeros(self.grid.shape, np.float32)
        for k in range(self.grid.shape[0]):
            axes = np.meshgrid(np.arange(4 * k, 4 * k + 4), *map(np.arange, fine.shape[1:]), indexing="ij")
            points = fine.position_mm(np.stack(axes, -1))
            values = sum(part.value * part.holds(points) for part in BODY)
            out[k] = values.reshape(4, self.matrix, 4, self.matrix, 4).mean((0, 2, 4))
        return out

    def body(self) -> np.ndarray:
        axes = np.meshgrid(*map(np.arange, self.grid.shape), indexing="ij")
        return BODY[0].holds(self.grid.position_mm(np.stack(axes, -1)))


@cache
def measurements(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Integrals and weights (views, rows, columns): Poisson counts, weights the counts.

    The closed form is averaged over 3 × 3 rays a cell.
    """
    fine, rng = scene.divided(3), np.random.default_rng(SEED)
    exact = np.zeros(scene.geometry.shape)
    for view in range(fine.views):
        rays = fine.rays(view)
        lines = np.asarray(sum(part.value * part.chord_mm(*rays) for part in BODY))
        exact[view] = lines.reshape(exact.shape[1], 3, exact.shape[2], 3).mean((1, 3))
    counts = np.maximum(rng.poisson(PHOTONS * np.exp(-exact)), 1)
    return np.log(PHOTONS / counts).astype(np.float32), counts.astype(np.float32)


def rms_hu(difference: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference[where].astype(np.float64) ** 2)) / WATER * 1000)


def ours(scene: Scene) -> dict[str, np.ndarray]:
    """Our curve and errors; seconds begin with the FDK start image."""
    from lampyris.projector import Projector

    integrals, weights = measurements(scene)
    inside, truth = scene.body(), scene.truth()
    beta = scene.voxel_mm**2 / (6 * scene.sigma_x**2)
    step = Step.of("qggmrf", neighbours=6, c_hu=C_HU, q=Q)
    _fdk(scene, integrals, weights)
    next(_passes(scene, step, None, beta, _fdk(scene, integrals, weights)))  # compiled before the clock runs
    began = time.perf_counter()
    start = _fdk(scene, integrals, weights)
    images, seconds = [start], [time.perf_counter() - began]
    run = _passes(scene, step, None, beta, start)
    spent = [0.0]
    for _ in range(OUR_PASSES):
        began = time.perf_counter()
        state = next(run)
        seconds.append(seconds[-1] + time.perf_counter() - began)
        images.append(state.image.copy())
        spent.append(state.passes)
    end = _last(_passes(scene, step, None, beta, images[-1], subsets=1, passes=OUR_END), OUR_END)
    kappa = certainty(Projector(scene.geometry, scene.grid), weights)
    errors = {"analytic": [rms_hu(start - truth, inside)], "same": [], "pwls": [], "tv": []}
    mean = strength(0.3 / scene.voxel_mm)
    for factor in LADDER:
        for name, chosen, known, base in (
            ("same", step, None, beta),
            ("pwls", Step.of("hyperbola", delta_hu=C_HU), kappa, mean),
            ("tv", Step.of("tv"), kappa, 10 * mean),
        ):
            image = _last(_passes(scene, chosen, known, factor * base, start), OUR_PASSES)
            errors[name].append(rms_hu(image - truth, inside))
    curve = np.array([[n, s, rms_hu(image - end, inside)] for n, s, image in zip(spent, seconds, images, strict=True)])
    return {"curve": curve, "end": end} | {f"error_{name}": np.array(values) for name, values in errors.items()}


def _passes(
    scene: Scene, step: Step, kappa: np.ndarray | None, beta: float, start: np.ndarray, *, subsets: int = 16,
    passes: int = OUR_PASSES,
) -> Any:  # fmt: skip
    from lampyris.projector import Projector
    from lampyris.recon.iterative.fidelity import WeightedSquares
    from lampyris.recon.iterative.priors import prior
    from lampyris.recon.iterative.solver import Settings, ordered_subsets

    rough = prior(step, spacing_mm=scene.grid.spacing_mm, water_per_mm=WATER, certainty=kappa)
    fidelity = WeightedSquares(*measurements(scene))
    settings = Settings(strength=beta, subsets=subsets, passes=passes)
    return ordered_subsets(Projector(scene.geometry, scene.grid), fidelity, rough, start, settings=settings)


def _last(run: Any, passes: int) -> np.ndarray:
    for _ in range(passes):
        state = next(run)
    return np.asarray(state.image)


def _fdk(scene: Scene, integrals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The analytic image on the scene's lattice, 1/mm."""
    from lampyris import recon

    half = (scene.grid.shape[0] - 1) / 2 * scene.voxel_mm
    request = GridRequest(
        scene.matrix, FIELD_MM, (0.0, 0.0), slice_thickness_mm=scene.voxel_mm, first_mm=-half, last_mm=half
    )
    projections = Projections(integrals, weights, scene.geometry, water_per_mm=WATER)
    volume = recon.reconstruct(projections, Step("fdk"), "ramp", request)
    if not np.allclose(volume.grid.first_voxel_mm, scene.grid.first_voxel_mm, atol=1e-3):
        raise SystemExit(f"FDK starts at {volume.grid.first_voxel_mm}, expected {scene.grid.first_voxel_mm}")
    return np.maximum((volume.values / 1000 + 1) * WATER, 0).astype(np.float32)


def mbirjax(scene: Scene) -> dict[str, np.ndarray]:
    """Their curve and errors; seconds are those of whole reconstructions of so many iterations."""
    integrals, weights = measurements(scene)
    inside, truth = scene.body(), scene.truth()
    _theirs(scene, integrals, weights, max(THEIR_ITERATIONS))  # compiled before the clock runs
    images, seconds = [], []
    for iterations in THEIR_ITERATIONS:
        began = time.perf_counter()
        images.append(_theirs(scene, integrals, weights, iterations))
        seconds.append(time.perf_counter() - began)
    end = _theirs(scene, integrals, weights, THEIR_END)
    found = zip(THEIR_ITERATIONS, seconds, images, strict=True)
    curve = np.array([[n, s, rms_hu(image - end, inside)] for n, s, image in found])
    errors = [rms_hu(_theirs(scene, integrals, weights, 18, factor) - truth, inside) for factor in LADDER]
    return {"curve": curve, "end": end, "error_same": np.array(errors)}


def _theirs(
    scene: Scene, integrals: np.ndarray, weights: np.ndarray, iterations: int, factor: float = 1.0
) -> np.ndarray:
    """An image of mbirjax in our order: theirs is (rows, columns, slices) about its z, with seeded partitions."""
    import mbirjax as peer

    model = peer.ConeBeamModel(
        integrals.shape, np.deg2rad(np.arange(scene.views) * 360.0 / scene.views),
        source_detector_dist=DETECTOR_MM, source_iso_dist=SOURCE_MM,
    )  # fmt: skip
    cell, sigma = scene.cell_mm, scene.sigma_x / np.sqrt(factor)
    model.set_params(no_warning=True, delta_det_channel=cell, delta_det_row=cell, delta_voxel=scene.voxel_mm)
    slices, rows, columns = scene.grid.shape
    model.set_params(no_warning=True, recon_shape=(rows, columns, slices), use_ror_mask=False, positivity_flag=True)
    model.set_params(
        no_warning=True, auto_regularize_flag=False, sigma_y=1.0, sigma_x=sigma, p=2.0, q=Q,
        T=C_HU * WATER / 1000 / sigma, verbose=0,
    )  # fmt: skip
    np.random.seed(SEED % 2**31)  # noqa: NPY002 - their partitions come from the global generator
    image, _ = model.recon(
        integrals, weights=weights, max_iterations=iterations, stop_threshold_change_pct=0.0, logfile_path=None,
        print_logs=False,
    )  # fmt: skip
    return np.ascontiguousarray(np.asarray(image)[::-1].transpose(2, 0, 1))


CASES = {"ours": ours, "mbirjax": mbirjax}


def measure(case: str, scene: Scene) -> dict[str, np.ndarray] | str:
    """Run one code in a process of its own; a string says why there is no result."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.npz"
        command = [sys.executable, "-m", "bench.iterative", "--case", case, "--into", str(file)]
        command += ["--matrix", str(scene.matrix), "--views", str(scene.views)]
        done = subprocess.run(command, env=FENCES | os.environ, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"exit {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"
        with np.load(file) as kept:
            return dict(kept)


def seconds_to(curve: np.ndarray, level_hu: float) -> str:
    """When the difference to the converged image falls to a level for good, log-linear between points."""
    above = np.flatnonzero(curve[:, 2] > level_hu)
    if not len(above):
        return f"< {curve[0, 1]:.1f}"
    k = int(above[-1])
    if k + 1 == len(curve):
        return f"> {curve[-1, 1]:.1f}"
    share = np.log(curve[k, 2] / level_hu) / np.log(curve[k, 2] / curve[k + 1, 2])
    return f"{curve[k, 1] + share * (curve[k + 1, 1] - curve[k, 1]):.1f}"


def report(scene: Scene) -> list[str]:
    found = {case: measure(case, scene) for case in CASES}
    geometry = scene.geometry
    lines = [
        f"{scene.matrix}² × {scene.matrix // 4} voxels of {scene.voxel_mm:g} mm from {scene.views} views of"
        f" {geometry.rows} × {geometry.columns} cells of {scene.cell_mm:g} mm, {PHOTONS:g} photons a ray,"
        f" {os.environ.get('NUMBA_NUM_THREADS', THREADS)} threads. RMS over the body, HU.",
        "", "## Convergence: the same cost, each code to its own converged image", "",
    ]  # fmt: skip
    for case, result in found.items():
        if isinstance(result, str):
            lines += [f"{case}: {result}", ""]
            continue
        lines += [f"| {case}: iterations | seconds | RMS difference, HU |", "|---|---|---|"]
        lines += [f"| {n:g} | {s:.2f} | {rms:.2f} |" for n, s, rms in result["curve"]] + [""]
    good = {case: result for case, result in found.items() if not isinstance(result, str)}
    lines += ["## Seconds to a difference", "", f"| HU | {' | '.join(good)} |", "|---" * (len(good) + 1) + "|"]
    for level in LEVELS_HU:
        lines.append(f"| {level:g} | {' | '.join(seconds_to(one['curve'], level) for one in good.values())} |")
    if len(good) == len(CASES):
        apart = rms_hu(good["ours"]["end"] - good["mbirjax"]["end"], scene.body())
        lines += ["", f"The two converged images differ by {apart:.2f} HU: one cost, two projectors."]
    ladder = " | ".join(f"× {factor:g}" for factor in LADDER)
    lines += ["", "## Error against the truth", "", f"| method | {ladder} | best |", "|---" * (len(LADDER) + 2) + "|"]
    for case, result in good.items():
        for name in sorted(key for key in result if key.startswith("error_")):
            values = [float(value) for value in result[name]]
            cells = [f"{value:.1f}" for value in values] + [""] * (len(LADDER) - len(values))
            lines.append(f"| {case}: {name[6:]} | {' | '.join(cells)} | {min(values):.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.iterative", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half of the size")
    parser.add_argument("--write", action="store_true", help="keep the table as docs/evidence/iterative.md")
    parser.add_argument("--case", choices=CASES, help="run one code here (for the bench itself)")
    parser.add_argument("--into", type=Path, help="file of that code's result")
    parser.add_argument("--matrix", type=int, default=128)
    parser.add_argument("--views", type=int, default=180)
    chosen = parser.parse_args()
    scene = Scene(64 if chosen.quick else chosen.matrix, chosen.views)
    if chosen.case:
        np.savez(chosen.into, **CASES[chosen.case](scene))
        return
    lines = report(scene)
    print("\n".join(lines))
    if chosen.write:
        head = ["# Iterative images beside mbirjax", "", "Written by `python -m bench.iterative --write`.", ""]
        Path("docs/evidence/iterative.md").write_text("\n".join(head + lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
