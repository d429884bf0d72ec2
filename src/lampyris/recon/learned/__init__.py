"""Image and noise level in HU → the image with its noise lowered, by a network that a recipe names and vouches for."""

from lampyris.recon.learned.denoiser import Denoiser, known

__all__ = ["Denoiser", "known"]
