"""Figures of the scenes → the sections of docs/evidence/dose.md, as lines of markdown."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from bench.dose import measure
from bench.dose.scenes import scene
from lampyris.model import Float64
from lampyris.quality.tasks.bounds import dose_of_equal_detectability
from lampyris.quality.tasks.organs import OrganBias

FULL = ("routine", 1.0)
"""Method and dose that everything is compared with."""
ONCE = ("tv", "model", "micro-lung")
"""What `micro` is compared with at the lowest dose, one seed."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which methods, low doses and how many seeds are compared."""

    methods: tuple[str, ...] = ("routine", "swift", "tv", "model", "micro")
    doses: tuple[float, ...] = (0.2, 0.1)
    seeds: int = 2
    besides: tuple[tuple[str, float], ...] = ()
    """Methods and doses that stand beside the others in the tables of error and of tasks."""

    def lowest(self) -> "Scope":
        """The same at the lowest dose alone."""
        return replace(self, doses=(min(self.doses),))

    def without(self, *methods: str) -> "Scope":
        return replace(self, methods=tuple(each for each in self.methods if each not in methods))

    def cells(self) -> list[tuple[str, float]]:
        """Full-dose routine first, then every method at every low dose; the slow ones at the lowest alone."""
        low = [(method, dose) for dose in self.doses for method in self.methods]
        return [FULL, *self.besides, *(cell for cell in low if cell[0] not in ONCE or cell[1] == min(self.doses))]

    def seeds_of(self, method: str) -> int:
        return 1 if method in ONCE else self.seeds


def fraction(dose: float) -> str:
    """1, 1/5, 1/10 …"""
    return "1" if dose == 1 else f"1/{round(1 / dose)}"


def rmse(name: str, scope: Scope) -> list[str]:
    """RMSE by tissue with its three parts, and the ratio to full-dose routine with its interval."""
    place = scene(name)
    lines = [f"### {place.title}", ""]
    reference = measure.rmse(name, *FULL, scope.seeds)
    head = "| tissue | recipe | dose | RMSE HU | ÷ full-dose routine | noise | lost resolution | bias |"
    lines += [head, "|---|---|---|---|---|---|---|---|"]
    splits = {cell: measure.errors(name, *cell, scope.seeds) for cell in scope.cells() if scope.seeds_of(cell[0]) > 1}
    for tissue in reference:
        for method, dose in scope.cells():
            values = measure.rmse(name, method, dose, scope.seeds_of(method))[tissue]
            parts = " | | |"
            if (method, dose) in splits:
                split = splits[method, dose][tissue]
                parts = f" {split.noise.root:.1f} | {split.resolution.root:.1f} | {split.bias.root:.1f} |"
            lines.append(
                f"| {tissue} | {method} | {fraction(dose)} | {estimate(measure.Estimate.of(values))} |"
                f" {ratio(values, reference[tissue])} |{parts}"
            )
    return [*lines, ""]


def bands(name: str, tissue: str, scope: Scope) -> list[str]:
    """Where in frequency the error of one tissue lies, full-dose routine beside the lowest dose."""
    cells = [FULL, *((method, min(scope.doses)) for method in scope.methods if scope.seeds_of(method) > 1)]
    found = {cell: measure.bands(name, *cell, scope.seeds, tissue) for cell in cells}
    names = [one.name for one in found[FULL]]
    lines = [f"### {scene(name).title}, {tissue}: RMSE in HU by spatial frequency (1/mm)", ""]
    lines += ["| recipe | dose | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for (method, dose), splits in found.items():
        row = " | ".join(f"{one.total.root:.1f}" for one in splits)
        lines.append(f"| {method} | {fraction(dose)} | {row} |")
    return [*lines, ""]


def organs(name: str, scope: Scope) -> list[str]:
    """Mean bias in every organ's core at the lowest dose: against the truth, and against the scan without noise."""
    dose = min(scope.doses)
    quiet = measure.image(name, "routine", np.inf, 0).volume.values
    against = {"truth": measure.truth(name).values, "noise-free routine": quiet}
    cells = [FULL, *((method, dose) for method in scope.methods)]
    lines = [f"### {scene(name).title}", ""]
    for title, reference in against.items():
        found = {cell: measure.organs(name, *cell, scope.seeds_of(cell[0]), reference) for cell in cells}
        head = " | ".join(f"{method} {fraction(d)}" for method, d in cells)
        lines += [f"Against the {title}, HU (± half of the 95 % interval over seeds):", ""]
        lines += [f"| organ | voxels | {head} |", "|---" * (2 + len(cells)) + "|"]
        for k, organ in enumerate(found[FULL].measured):
            row = " | ".join(_organ(found[cell].measured[k]) for cell in cells)
            lines.append(f"| {organ.name} | {organ.voxels} | {row} |")
        lines.append("")
    lines += ["Structure in the mean difference from the noise-free routine, soft tissue, low-pass of σ 5 mm:", ""]
    lines += ["| recipe | dose | RMS HU | 99th percentile HU |", "|---|---|---|---|"]
    for method, d in cells:
        rms, most = measure.drift(name, method, d, scope.seeds_of(method), quiet)
        lines.append(f"| {method} | {fraction(d)} | {rms:.1f} | {most:.1f} |")
    return [*lines, ""]


def resolution(scope: Scope) -> list[str]:
    """f50 at three contrasts."""
    names = list(measure.RODS)
    lines = [
        "| recipe | dose | " + " | ".join(f"{one}, f50 /mm" for one in names) + " |",
        "|---" * (2 + len(names)) + "|",
    ]
    reference = measure.resolutions(*FULL, scope.seeds)
    for method, dose in scope.cells():
        found = measure.resolutions(method, dose, scope.seeds_of(method))
        row = []
        for one in names:
            f50, interval = found[one]
            reach = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.3f}"
            row.append(f"{f50:.3f}{reach} (× {f50 / reference[one][0]:.2f})")
        lines.append(f"| {method} | {fraction(dose)} | " + " | ".join(row) + " |")
    return [*lines, ""]


def nodules(scope: Scope) -> list[str]:
    """Volume error of solid nodules."""
    sizes = list(measure.nodules(*FULL, scope.seeds))
    lines = [
        "| recipe | dose | " + " | ".join(f"{size:g} mm" for size in sizes) + " |",
        "|---" * (2 + len(sizes)) + "|",
    ]
    for method, dose in scope.cells():
        seeds = scope.seeds_of(method)
        found = measure.nodules(method, dose, seeds)
        row = []
        for size in sizes:
            one, seen = found[size]
            spread = "" if one is None or one.deviation is None else f" (SD {one.deviation:.1f})"
            row.append("not measured" if one is None else f"{one.mean:+.1f} %{spread}, {seen} of {seeds}")
        lines.append(f"| {method} | {fraction(dose)} | " + " | ".join(row) + " |")
    return [*lines, ""]


def emphysema(scope: Scope) -> list[str]:
    """LAA-950 in two patches of lung."""
    reference = measure.emphysema(*FULL, scope.seeds)
    names = [f"patch of {truth:.1f} %" for truth, _ in reference.values()]
    lines = ["| recipe | dose | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for method, dose in scope.cells():
        found = measure.emphysema(method, dose, scope.seeds_of(method))
        row = [f"{estimate(read)} ({read.mean - truth:+.1f})" for truth, read in found.values()]
        lines.append(f"| {method} | {fraction(dose)} | " + " | ".join(row) + " |")
    return [*lines, ""]


RODS = ((20, 8.0), (20, 5.0), (10, 15.0), (5, 15.0))
"""Contrast HU and diameter mm of the low-contrast tasks."""


def searched(scope: Scope) -> list[str]:
    """Solid nodules that a searching observer finds, and the false marks that it makes before."""
    sizes = [size for size, _ in measure.searched(*FULL, 1)[0].nodules]
    lines = [
        "| recipe | dose | " + " | ".join(f"{size:g} mm" for size in sizes) + " | found before a false mark |",
        "|---" * (3 + len(sizes)) + "|",
    ]
    for method, dose in scope.cells():
        found = measure.searched(method, dose, scope.seeds_of(method))
        row, first = [], 0
        for at in range(len(sizes)):
            each = [one.nodules[at][1] for one in found]
            first += sum(one.score_hu is not None and one.false_marks_above == 0 for one in each)
            over = [(one.score_hu or 0.0) / seed.best_false_hu for one, seed in zip(each, found, strict=True)]
            row.append(f"{np.mean(over):.2f} ×")
        lines.append(
            f"| {method} | {fraction(dose)} | " + " | ".join(row) + f" | {first} of {len(found) * len(sizes)} |"
        )
    return [*lines, ""]


def contrast(scope: Scope) -> list[str]:
    """d′ and AUC of the channelised Hotelling observer, and what the counts allow."""
    lines = [
        "| recipe | dose | " + " | ".join(f"{hu} HU, {mm:g} mm" for hu, mm in RODS) + " |",
        "|---" * (2 + len(RODS)) + "|",
    ]
    for dose in scope.doses:
        row = [f"{measure.bound(dose, hu, mm):.1f}" for hu, mm in RODS]
        lines.append(f"| *all counts, ideal* | {fraction(dose)} | " + " | ".join(row) + " |")
        for method in scope.methods:
            row = []
            for hu, mm in RODS:
                seen = measure.contrast(method, dose, scope.seeds, hu, mm)
                low, high = seen.snr_interval
                row.append(f"{seen.snr:.1f} ({low:.1f} … {high:.1f}), AUC {seen.auc:.3f}")
            lines.append(f"| {method} | {fraction(dose)} | " + " | ".join(row) + " |")
    return [*lines, ""]


def equal_contrast(scope: Scope) -> list[str]:
    """The dose at which each low-contrast task is seen as well as in full-dose routine."""
    lines = [
        "| recipe | " + " | ".join(f"{hu} HU, {mm:g} mm" for hu, mm in RODS) + " |",
        "|---" * (1 + len(RODS)) + "|",
    ]
    for method in (each for each in scope.methods if each != FULL[0]):
        row = []
        for hu, mm in RODS:
            values = [max(measure.contrast(method, dose, scope.seeds, hu, mm).snr, 1e-3) for dose in scope.doses]
            reference = measure.contrast(*FULL, scope.seeds, hu, mm).snr
            row.append(_equal(scope.doses, values, reference))
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    return [*lines, ""]


def _equal(doses: tuple[float, ...], values: list[float], reference: float) -> str:
    if values[int(np.argmax(doses))] < reference:
        return f"above {fraction(max(doses))}"
    if min(values) >= reference:
        return f"below {fraction(min(doses))}"
    return f"{dose_of_equal_detectability(doses, values, reference).value:.2f}"


def generalisation(names: tuple[str, ...], scope: Scope) -> list[str]:
    """RMSE at the lowest dose where nothing was trained on, and the ratio of each recipe to `model`."""
    dose = min(scope.doses)
    methods = list(scope.methods)
    head = " | ".join(f"{method}, HU (÷ model)" for method in methods)
    lines = [f"| scene | tissue | full-dose routine, HU | {head} |", "|---" * (3 + len(methods)) + "|"]
    for name in names:
        full = measure.rmse(name, *FULL, 1)
        found = {method: measure.rmse(name, method, dose, 1) for method in methods}
        for tissue, values in full.items():
            model = found["model"][tissue][0] if "model" in found else np.nan
            row = " | ".join(f"{found[m][tissue][0]:.1f} ({found[m][tissue][0] / model:.2f})" for m in methods)
            lines.append(f"| {scene(name).title} | {tissue} | {values[0]:.1f} | {row} |")
    return [*lines, ""]


def ratio(values: Float64, reference: Float64) -> str:
    """Ratio of means with Fieller's interval for independent samples, when there are seeds enough."""
    point = float(values.mean() / reference.mean())
    if min(len(values), len(reference)) < 2:
        return f"{point:.2f}"
    relative = np.sqrt(sum(one.var(ddof=1) / len(one) / one.mean() ** 2 for one in (values, reference)))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * point * float(relative)
    return f"**{point:.2f}** ± {reach:.2f}"


def estimate(one: measure.Estimate) -> str:
    reach = "" if one.interval is None else f" ± {(one.interval[1] - one.interval[0]) / 2:.1f}"
    return f"{one.mean:.1f}{reach}"


def _organ(one: OrganBias) -> str:
    reach = "" if one.interval is None else f" ± {(one.interval[1] - one.interval[0]) / 2:.1f}"
    return f"{one.bias:+.1f}{reach}"
