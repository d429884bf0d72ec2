"""A scan's purpose, protocol and link → exact or coarsened, with the reason: a decision that travels with the scan."""

import fnmatch
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lampyris.model import CalibrationError, InputError, RawScan
from lampyris.raw.codec.steps import coding_of

CodingName: TypeAlias = Literal["lossless", "sigma/4", "sigma/2"]
Purpose: TypeAlias = Literal["clinical", "phantom", "calibration", "quality"]
CODINGS: dict[str, float | None] = {"lossless": None, "sigma/4": 4.0, "sigma/2": 2.0}
"""Steps per standard deviation of each coding; None = every count is kept as it is."""
LONGEST_REASON = 128
PURPOSES = ("clinical", "phantom", "calibration", "quality")


@dataclass(frozen=True, slots=True)
class Decision:
    """Which coding a scan is given, and why."""

    coding: CodingName
    reason: str

    def __post_init__(self) -> None:
        if self.coding not in CODINGS:
            raise InputError(f"coding {self.coding!r} is not known; known are {', '.join(CODINGS)}")
        if not 0 < len(self.reason) <= LONGEST_REASON:
            raise InputError(
                f"coding {self.coding} with a reason of {len(self.reason)} characters: it is recorded with the scan,"
                f" expected 1…{LONGEST_REASON}"
            )

    @property
    def steps_per_sigma(self) -> float | None:
        return CODINGS[self.coding]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a site has laid down; the first rule that fits decides.

    `protocols`: (pattern, coding) pairs for ProtocolName, with * and ?, upper and lower case alike. `clinical` is the
    coding of patients' scans, `slow` that of links under `slow_mbit_per_s`.
    """

    protocols: tuple[tuple[str, CodingName], ...] = ()
    clinical: CodingName = "sigma/4"
    slow: CodingName = "sigma/2"
    slow_mbit_per_s: float = 50.0

    def __post_init__(self) -> None:
        for reason, coding in (("", self.clinical), ("", self.slow), *self.protocols):
            Decision(coding, f"protocol like {reason}")
        if not self.slow_mbit_per_s >= 0:
            raise InputError(f"a slow link is one under {self.slow_mbit_per_s} Mbit/s: expected at least 0")

    def decide(self, scan: RawScan, *, purpose: Purpose = "clinical", link_mbit_per_s: float | None = None) -> Decision:
        """The coding of one scan; an unknown link (None) counts as fast.

        Phantom, calibration and quality scans are kept exactly, and so is a scan that cannot be coarsened: the reason
        says what is missing. Raises InputError for another purpose.
        """
        if purpose not in PURPOSES:
            raise InputError(f"purpose {purpose!r} is not known; known are {', '.join(PURPOSES)}")
        if purpose != "clinical":
            return Decision("lossless", f"purpose {purpose}")
        wanted = self._wanted(scan.acquisition.ProtocolName, link_mbit_per_s)
        if wanted.steps_per_sigma is not None:
            try:
                coding_of(scan, wanted.steps_per_sigma)
            except (CalibrationError, InputError) as error:
                missing = str(error).split(":")[0][: LONGEST_REASON - 16]
                return Decision("lossless", f"not {wanted.coding}: {missing}")
        return wanted

    def _wanted(self, protocol: str | None, link_mbit_per_s: float | None) -> Decision:
        for pattern, coding in self.protocols:
            if protocol is not None and fnmatch.fnmatchcase(protocol.casefold(), pattern.casefold()):
                return Decision(coding, f"protocol like {pattern}")
        if link_mbit_per_s is not None and link_mbit_per_s < self.slow_mbit_per_s:
            return Decision(self.slow, f"link of {link_mbit_per_s:g} Mbit/s, slow is under {self.slow_mbit_per_s:g}")
        return Decision(self.clinical, "clinical default")
