"""`python -m bench.iterative [--quick] [--write]`: our iterative images beside mbirjax' on the same data → tables.

Both minimise ½‖Ax − p‖²_W + β Σ ψ(x_j − x_k) over x ≥ 0 with the q-GGMRF of six neighbours, q = 1.2, the same c and β:
mbirjax writes Σ ρ(t)/6 with ρ = ψ/σ_x², c = T·σ_x and σ_y = 1, ours β·Σ ψ/Δ², hence β = Δ²/(6σ_x²). Each code is run
to its own converged image; how far it still was from it is told over its iterations and seconds, start image included.
Then the error against the truth, each method at strengths a factor of four apart. Every code has a process of its own
with one thread; run this with an interpreter that has the `bench` extra. Seconds are of the wall and, where other work
shares the machine, those of the processor tell more. `--quick` is a quarter of the work; `--write` keeps the tables as
docs/evidence/iterative.md; `--images FOLDER` keeps what they were made from.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import FENCES
from bench.soft_body import DETECTOR_MM, FIELD_MM, HALF_FREQUENCY, PHOTONS, SEED, SOURCE_MM, WATER, Scene
from lampyris.model import GridRequest, Projections, Step
from lampyris.recon.iterative.certainty import certainty, strength

C_HU, Q = 10.0, 1.2
LADDER = (0.25, 1.0, 4.0, 16.0)
"""Factors of the strength that every method is tried at."""
THEIR_ITERATIONS, THEIR_END = (1, 2, 4, 8, 15), 40
"""15 is their default."""
OUR_USUAL, OUR_END = 18, 60
LEVELS_HU = (10.0, 5.0, 2.0, 1.0, 0.5)
FENCE = FENCES | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """A scene and its data, made once for all codes."""

    scene: Scene
    integrals: np.ndarray
    weights: np.ndarray
    truth: np.ndarray

    @staticmethod
    def of(scene: Scene) -> "Work":
        return Work(scene, *scene.measured(), scene.truth())

    def save(self, file: Path) -> None:
        shape = [self.scene.matrix, self.scene.slices, self.scene.views]
        np.savez(file, scene=shape, integrals=self.integrals, weights=self.weights, truth=self.truth)

    @staticmethod
    def load(file: Path) -> "Work":
        with np.load(file) as kept:
            return Work(Scene(*map(int, kept["scene"])), kept["integrals"], kept["weights"], kept["truth"])

    def error(self, image: np.ndarray) -> float:
        return rms_hu(image - self.truth, self.scene.body())

    def curve(self, spent: list[tuple[float, float, float]], images: list[np.ndarray], end: np.ndarray) -> np.ndarray:
        """Rows of iterations, wall seconds, processor seconds, RMS difference to the end."""
        inside = self.scene.body()
        return np.array([[*cost, rms_hu(image - end, inside)] for cost, image in zip(spent, images, strict=True)])


def rms_hu(difference: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference[where].astype(np.float64) ** 2)) / WATER * 1000)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, wall seconds and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def ours(work: Work) -> dict[str, np.ndarray]:
    """Our curve and errors; seconds begin with the FDK start image."""
    from lampyris.projector import Projector

    scene, step = work.scene, Step.of("qggmrf", neighbours=6, c_hu=C_HU, q=Q)
    next(_passes(work, step, None, scene.beta, _fdk(work)))  # compiled before the clock runs
    start, wall, cpu = timed(lambda: _fdk(work))
    images, spent = [start], [(0.0, wall, cpu)]
    run = _passes(work, step, None, scene.beta, start)
    for _ in range(OUR_USUAL):
        state, more_wall, more_cpu = timed(lambda: next(run))
        wall, cpu = wall + more_wall, cpu + more_cpu
        images.append(state.image.copy())
        spent.append((state.passes, wall, cpu))
    end = _last(_passes(work, step, None, scene.beta, images[-1], subsets=1), OUR_END)
    kappa = certainty(Projector(scene.geometry, scene.grid), work.weights)
    mean = strength(HALF_FREQUENCY / scene.voxel_mm)
    methods = {
        "q-GGMRF, as theirs": (step, None, scene.beta),
        "hyperbola": (Step.of("hyperbola", delta_hu=C_HU), kappa, mean),
        "total variation": (Step.of("tv"), kappa, mean),
    }
    found = {"curve": work.curve(spent, images, end), "end": end, "start": start, "FDK": np.array([work.error(start)])}
    for name, (chosen, known, base) in methods.items():
        tried = [_last(_passes(work, chosen, known, factor * base, start), OUR_USUAL) for factor in LADDER]
        errors = [work.error(image) for image in tried]
        found |= {name: np.array(errors), f"best {name}": tried[int(np.argmin(errors))]}
    return found


def _passes(
    work: Work, step: Step, kappa: np.ndarray | None, beta: float, start: np.ndarray, *, subsets: int = 0
) -> Any:
    from lampyris.projector import Projector
    from lampyris.recon.iterative.fidelity import WeightedSquares
    from lampyris.recon.iterative.priors import prior
    from lampyris.recon.iterative.solver import Settings, ordered_subsets

    grid = work.scene.grid
    rough = prior(step, spacing_mm=grid.spacing_mm, water_per_mm=WATER, certainty=kappa)
    settings = Settings(strength=beta, subsets=subsets or work.scene.subsets, passes=OUR_USUAL)
    fidelity = WeightedSquares(work.integrals, work.weights)
    return ordered_subsets(Projector(work.scene.geometry, grid), fidelity, rough, start, settings=settings)


def _last(run: Any, passes: int) -> np.ndarray:
    for _ in range(passes):
        state = next(run)
    return np.asarray(state.image)


def _fdk(work: Work) -> np.ndarray:
    """The analytic image on the scene's lattice, 1/mm."""
    from lampyris import recon

    scene = work.scene
    half = (scene.slices - 1) / 2 * scene.voxel_mm
    request = GridRequest(
        scene.matrix, FIELD_MM, (0.0, 0.0), slice_thickness_mm=scene.voxel_mm, first_mm=-half, last_mm=half
    )
    projections = Projections(work.integrals, work.weights, scene.geometry, water_per_mm=WATER)
    volume = recon.reconstruct(projections, Step("fdk"), "ramp", request)
    if not np.allclose(volume.grid.first_voxel_mm, scene.grid.first_voxel_mm, atol=1e-3):
        raise SystemExit(f"FDK starts at {volume.grid.first_voxel_mm}, expected {scene.grid.first_voxel_mm}")
    return np.maximum((volume.values / 1000 + 1) * WATER, 0).astype(np.float32)


def mbirjax(work: Work) -> dict[str, np.ndarray]:
    """Their curve and errors; seconds are those of whole reconstructions of so many iterations."""
    reconstruct = _theirs(work)
    end = reconstruct(THEIR_END)  # compiled before the clock runs
    images, spent = [], []
    for iterations in THEIR_ITERATIONS:
        image, wall, cpu = timed(lambda n=iterations: reconstruct(n))
        images.append(image)
        spent.append((float(iterations), wall, cpu))
    usual = THEIR_ITERATIONS[-1]
    tried = [images[-1] if factor == 1 else reconstruct(usual, factor) for factor in LADDER]
    errors = [work.error(image) for image in tried]
    name = "q-GGMRF"
    best = tried[int(np.argmin(errors))]
    return {"curve": work.curve(spent, images, end), "end": end, name: np.array(errors), f"best {name}": best}


def _theirs(work: Work) -> Callable[..., np.ndarray]:
    """(iterations, factor of the strength) → an image of mbirjax in our order, always from the same partitions.

    Theirs is (rows, columns, slices) about its z, rows counted from our lowest.
    """
    import mbirjax as peer

    scene = work.scene
    model = peer.ConeBeamModel(
        work.integrals.shape, np.deg2rad(np.arange(scene.views) * 360.0 / scene.views),
        source_detector_dist=DETECTOR_MM, source_iso_dist=SOURCE_MM,
    )  # fmt: skip
    cell = scene.cell_mm
    model.set_params(no_warning=True, delta_det_channel=cell, delta_det_row=cell, delta_voxel=scene.voxel_mm)
    slices, rows, columns = scene.grid.shape
    model.set_params(no_warning=True, recon_shape=(rows, columns, slices), use_ror_mask=False, positivity_flag=True)

    def image(iterations: int, factor: float = 1.0) -> np.ndarray:
        sigma = float(np.sqrt(scene.voxel_mm**2 / (6 * factor * scene.beta)))
        model.set_params(
            no_warning=True, auto_regularize_flag=False, sigma_y=1.0, sigma_x=sigma, p=2.0, q=Q,
            T=C_HU * WATER / 1000 / sigma, verbose=0,
        )  # fmt: skip
        np.random.seed(SEED % 2**31)  # noqa: NPY002 - their partitions come from the global generator
        found, _ = model.recon(
            work.integrals, weights=work.weights, max_iterations=iterations, stop_threshold_change_pct=0.0,
            logfile_path=None, print_logs=False,
        )  # fmt: skip
        return np.ascontiguousarray(np.asarray(found)[::-1].transpose(2, 0, 1))

    return image


CASES = {"ours": ours, "mbirjax": mbirjax}


def measure(case: str, data: Path, into: Path) -> dict[str, np.ndarray] | str:
    """Run one code in a process of its own; a string says why there is no result."""
    command = [sys.executable, "-m", "bench.iterative", "--case", case, "--data", str(data), "--into", str(into)]
    done = subprocess.run(command, env=os.environ | FENCE, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"exit {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"
    with np.load(into) as kept:
        return dict(kept)


def seconds_to(curve: np.ndarray, level_hu: float, column: int) -> str:
    """When the difference to the converged image falls to a level for good, log-linear between points."""
    above = np.flatnonzero(curve[:, 3] > level_hu)
    if not len(above):
        return f"< {curve[0, column]:.1f}"
    k = int(above[-1])
    if k + 1 == len(curve):
        return f"> {curve[-1, column]:.1f}"
    share = np.log(curve[k, 3] / level_hu) / np.log(curve[k, 3] / curve[k + 1, 3])
    return f"{curve[k, column] + share * (curve[k + 1, column] - curve[k, column]):.1f}"


def _convergence(found: dict[str, dict[str, np.ndarray]], inside: np.ndarray) -> list[str]:
    lines = ["## Convergence: one cost, each code to its own converged image", ""]
    for case, result in found.items():
        lines += [f"| {case}: iterations | wall, s | processor, s | RMS difference, HU |", "|---|---|---|---|"]
        lines += [f"| {n:g} | {wall:.2f} | {cpu:.2f} | {rms:.2f} |" for n, wall, cpu, rms in result["curve"]] + [""]
    lines += ["## Seconds to a difference", "", "Wall, processor.", ""]
    lines += [f"| HU | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for level in LEVELS_HU:
        cells = [
            f"{seconds_to(one['curve'], level, 1)}, {seconds_to(one['curve'], level, 2)}" for one in found.values()
        ]
        lines.append(f"| {level:g} | {' | '.join(cells)} |")
    if len(found) == len(CASES):
        apart = rms_hu(found["ours"]["end"] - found["mbirjax"]["end"], inside)
        lines += ["", f"The two converged images differ by {apart:.2f} HU RMS: one cost, two projectors."]
    return [*lines, ""]


def _errors(found: dict[str, dict[str, np.ndarray]]) -> list[str]:
    ladder = " | ".join(f"× {factor:g}" for factor in LADDER)
    lines = [
        "## Error against the truth", "",
        f"The least of every row is its method's best in this scan of strengths. Ours after {OUR_USUAL} passes,"
        f" mbirjax after its usual {THEIR_ITERATIONS[-1]} iterations.", "",
        f"| method, HU RMS | {ladder} | best |", "|---" * (len(LADDER) + 2) + "|",
    ]  # fmt: skip
    for case, result in found.items():
        for name in result:
            if name in ("curve", "end", "start") or name.startswith("best "):
                continue
            values = [float(value) for value in result[name]]
            cells = [f"{value:.1f}" for value in values] if len(values) > 1 else [""] * len(LADDER)
            lines.append(f"| {case}: {name} | {' | '.join(cells)} | {min(values):.1f} |")
    return lines


def report(scene: Scene, folder: Path) -> list[str]:
    work = Work.of(scene)
    work.save(folder / "data.npz")
    results = {case: measure(case, folder / "data.npz", folder / f"{case}.npz") for case in CASES}
    geometry = scene.geometry
    lines = [
        f"{scene.matrix}² × {scene.slices} voxels of {scene.voxel_mm:g} mm from {scene.views} views of"
        f" {geometry.rows} × {geometry.columns} cells of {scene.cell_mm:g} mm, {PHOTONS:g} photons a cell,"
        f" one thread each; ours in {scene.subsets} subsets. RMS over the body, without its rim.", "",
    ]  # fmt: skip
    lines += [f"{case}: {why}" for case, why in results.items() if isinstance(why, str)]
    found = {case: result for case, result in results.items() if not isinstance(result, str)}
    return [*lines, *_convergence(found, scene.body()), *_errors(found)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.iterative", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="48² × 12 voxels, 60 views")
    parser.add_argument("--write", action="store_true", help="keep the tables as docs/evidence/iterative.md")
    parser.add_argument("--images", type=Path, help="folder that keeps data and images")
    parser.add_argument("--case", choices=CASES, help="run one code here (for the bench itself)")
    parser.add_argument("--data", type=Path, help="that code's data")
    parser.add_argument("--into", type=Path, help="file of that code's result")
    chosen = parser.parse_args()
    if chosen.case:
        np.savez(chosen.into, **CASES[chosen.case](Work.load(chosen.data)))
        return
    scene = Scene(48, 12, 60) if chosen.quick else Scene(64, 16, 90)
    with tempfile.TemporaryDirectory() as passing:
        folder = chosen.images or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        lines = report(scene, folder)
    print("\n".join(lines))
    if chosen.write:
        called = f"`python -m bench.iterative {'--quick ' if chosen.quick else ''}--write`"
        head = ["# Iterative images beside mbirjax", "", f"Written by {called}, {os.cpu_count()} processors.", ""]
        Path("docs/evidence/iterative.md").write_text("\n".join(head + lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
