"""Projections → Volume: analytic, learned and iterative reconstruction of parallel, fan, cone-beam, helical scans."""

from lampyris.recon.field import native_column_mm, native_slice_mm
from lampyris.recon.iterative.solver import Checkpoint
from lampyris.recon.kernels import KERNELS, Kernel, kernel
from lampyris.recon.noise import deviation, deviation_of_replicates, is_linear, noise_known, perturbed
from lampyris.recon.run import ahead, complete, noise_ahead, reconstruct, why_not_ahead

__all__ = [
    "KERNELS",
    "Checkpoint",
    "Kernel",
    "ahead",
    "complete",
    "deviation",
    "deviation_of_replicates",
    "is_linear",
    "kernel",
    "native_column_mm",
    "native_slice_mm",
    "noise_ahead",
    "noise_known",
    "perturbed",
    "reconstruct",
    "why_not_ahead",
]
