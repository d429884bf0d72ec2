"""The virtual scanner: a phantom or a CT volume → RawScan, and RawScan → RawScan at a lower dose."""

from lampyris.simulate.lower_dose import lower_dose, realise
from lampyris.simulate.protocol import MANUFACTURER, Protocol
from lampyris.simulate.run import scan
from lampyris.simulate.scanners import Scanner, scanner, scanner_names

__all__ = ["MANUFACTURER", "Protocol", "Scanner", "lower_dose", "realise", "scan", "scanner", "scanner_names"]
