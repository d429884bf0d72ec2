"""Volume → Assessment: how sharp, how noisy, how true, at what dose, and whether it may pass."""

from lampyris.quality.assess import assess
from lampyris.quality.gate import judge, limits
from lampyris.quality.inserts import Rod
from lampyris.quality.passport import Analytic, Transfer, map_grid, passport

__all__ = ["Analytic", "Rod", "Transfer", "assess", "judge", "limits", "map_grid", "passport"]
