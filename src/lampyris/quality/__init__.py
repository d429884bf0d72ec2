"""Volume → Assessment: how sharp, how noisy, how true, at what dose, and whether it may pass."""

from lampyris.quality.gate import judge, limits

__all__ = ["judge", "limits"]
