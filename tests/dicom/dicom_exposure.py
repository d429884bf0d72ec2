"""A lopsided helical exposure with numbers that can be reckoned by hand, and what was measured on its image."""

import dataclasses

import numpy as np

from lampyris.model import Acquisition, Assessment, Figure, Gantry, Geometry, Projections, Spectrum

VIEWS, PER_TURN = 90, 36  # two and a half turns
FEED_MM, TURN_S, MEAN_MAS = 24.0, 0.5, 0.4  # mAs a view: 14.4 mAs and 28.8 mA a turn

FIGURES = (
    Figure("noise", 31.25, "HU", "computed", (("method", "Christianson 2015"), ("windows", 88))),
    Figure("hu_surroundings", -998.5, "HU"),
    Figure("nps_mean", 0.34, "1/mm"),
    Figure("fault_constant_slices", 1.0, "slices"),
    Figure("ctdivol", 0.73, "mGy", "reported", (("phantom_mm", 320.0),)),
    Figure("dlp", 4.38, "mGy·cm", "computed", (("over_ranging", "included"), ("scanned_cm", 6.0))),
    Figure("ssde", 0.91, "mGy", "estimated", (("factors", "TG-204/220"),)),
    Figure("wed", 29.5, "cm", "computed", (("report", "AAPM 220"),)),
)


def exposure(acquisition: Acquisition, *, known: bool = True, moves: bool = True) -> Projections:
    """Projections of nothing; tube current a fifth above its mean in half of the views, a fifth below in the others."""
    gantry = Gantry(541.0, 949.0, 7, 11, (1.7, 2.9))
    geometry = Geometry.helical(
        gantry, views=VIEWS, views_per_turn=PER_TURN, table_feed_mm=-FEED_MM if moves else 0.0, start_axial_mm=13.0
    )
    mas = np.where(np.arange(VIEWS) % 2, 1.2 * MEAN_MAS, 0.8 * MEAN_MAS)
    flat = np.zeros(geometry.shape, np.float32)
    energies = np.array([40.0, 80.0])
    spectrum = Spectrum(energies, np.array([1e4, 2e4]), energies, 100.0) if known else None
    timed = dataclasses.replace(acquisition, RevolutionTime=TURN_S if known else None)
    return Projections(
        flat, flat + 1, geometry, spectrum=spectrum, acquisition=timed, exposure_mas=mas, scan_id="5f" * 32
    )


def assessed(*, figures: tuple[Figure, ...] = FIGURES) -> Assessment:
    return Assessment(figures, verdict="look", reasons=("look: noise is 31.25 HU, allowed −∞ … 20", "not measured: d"))
