"""Images of a known truth → figures of what a dose must keep: error, organs, nodules, emphysema, detection, edges."""

from lampyris.quality.tasks.bounds import dose_of_equal_detectability, ideal_bound, prewhitening
from lampyris.quality.tasks.contrast import ContrastTransfer, contrast_transfer, mean_volume
from lampyris.quality.tasks.emphysema import NoiseShift, low_attenuation, noise_shift
from lampyris.quality.tasks.error import Fit, Part, Split, split_bands, split_error, tissues
from lampyris.quality.tasks.nodules import Nodule, Search, nodule_volume
from lampyris.quality.tasks.observer import (
    Channels,
    Observed,
    Viewing,
    dense_difference_of_gaussians,
    gabor,
    hotelling,
    mann_whitney,
    trained_and_tested,
)
from lampyris.quality.tasks.organs import Core, OrganBias, OrganBiases, lowpass_difference, organ_biases
from lampyris.quality.tasks.search import Mark, Sought, dot_response, marks, sought

__all__ = [
    "Channels",
    "ContrastTransfer",
    "Core",
    "Fit",
    "Mark",
    "Nodule",
    "NoiseShift",
    "Observed",
    "OrganBias",
    "OrganBiases",
    "Part",
    "Search",
    "Sought",
    "Split",
    "Viewing",
    "contrast_transfer",
    "dense_difference_of_gaussians",
    "dose_of_equal_detectability",
    "dot_response",
    "gabor",
    "hotelling",
    "ideal_bound",
    "low_attenuation",
    "lowpass_difference",
    "mann_whitney",
    "marks",
    "mean_volume",
    "nodule_volume",
    "noise_shift",
    "organ_biases",
    "prewhitening",
    "sought",
    "split_bands",
    "split_error",
    "tissues",
    "trained_and_tested",
]  # fmt: skip
