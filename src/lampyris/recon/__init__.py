"""Projections → Volume: analytic reconstruction of parallel, fan, cone-beam and helical scans."""

from lampyris.recon.field import native_slice_mm
from lampyris.recon.kernels import KERNELS, Kernel, kernel
from lampyris.recon.noise import deviation
from lampyris.recon.run import reconstruct

__all__ = ["KERNELS", "Kernel", "deviation", "kernel", "native_slice_mm", "reconstruct"]
