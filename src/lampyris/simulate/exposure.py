"""Attenuation seen by a few scout views → the tube current of every view, relative to its mean."""

import numpy as np

from lampyris.model import Float64
from lampyris.simulate.protocol import Modulation

STRENGTH = 0.5
"""Exponent of exp(p) for the current; ½ makes a slice's noise least for its dose, Gies (1999), Med. Phys. 26:2235."""
TUBE_RANGE = (0.3, 2.0)


def relative_current(depth: Float64, at: Float64, views: int, views_per_turn: int, mode: Modulation) -> Float64:
    """(views,) with mean 1: exp(½·p) within TUBE_RANGE of its mean, p the largest line integral of the view.

    `depth` is p of the scout views `at`. "angular" follows p within a turn, "z" its mean over a turn, "both" p itself.
    """
    if mode == "none":
        return np.ones(views)
    p = np.interp(np.arange(views), at, depth)
    window = min(views_per_turn, views)
    padded = np.pad(p, (window // 2, window - 1 - window // 2), mode="edge")
    turn = np.convolve(padded, np.full(window, 1 / window), mode="valid")
    followed = {"angular": p - turn, "z": turn, "both": p}[mode]
    current = np.exp(STRENGTH * (followed - followed.mean()))
    current = np.clip(current / current.mean(), *TUBE_RANGE)
    return np.asarray(current / current.mean(), np.float64)
