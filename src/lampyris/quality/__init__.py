"""Volume → Assessment: how sharp, how noisy, how true, at what dose, and whether it may pass."""

from lampyris.quality.assess import assess
from lampyris.quality.gate import judge, limits
from lampyris.quality.inserts import Rod

__all__ = ["Rod", "assess", "judge", "limits"]
