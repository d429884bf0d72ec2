"""What requests cost, as measured, and how large a province is, as assumed → the machines, lines, disks it needs."""

from dataclasses import dataclass

from bench.province.costs import Price


@dataclass(frozen=True, slots=True)
class Assumed:
    """A province: 1000 scanners that each make 100 scans in 10 hours, with a peak of twice the mean.

    Counts: 900 channels × 1000 views a turn × 2 bytes; 60 % of 16 rows × 30 turns, 30 % of 64 × 15, 10 % of 256 × 4.
    A series is 300 images of 512², packed as DICOM without compression.
    """

    scanners: int = 1000
    scans_a_day: int = 100
    hours: float = 10.0
    peak: float = 2.0
    raw_gb: float = 1.22
    ratio: float = 3.3
    """Of steps of σ/4 in HTJ2K."""
    chunk_bytes: int = 8 << 20
    images: int = 300
    image_bytes: int = 526_400
    looks: float = 3.0
    """Times that a site asks after a scan and its returns while it is under way, every ten seconds."""
    token_s: float = 270.0
    days: int = 30
    busy: float = 0.7
    """Share of a processor that is planned to be used."""

    @property
    def per_s(self) -> float:
        """Scans a second at the peak."""
        return self.peak * self.scanners * self.scans_a_day / (self.hours * 3600)

    @property
    def sent_gb(self) -> float:
        return self.raw_gb / self.ratio

    @property
    def chunks(self) -> float:
        return self.sent_gb * 1e9 / self.chunk_bytes

    @property
    def series_gb(self) -> float:
        return self.images * self.image_bytes / 1e9


@dataclass(frozen=True, slots=True)
class Need:
    """Processors of interfaces and of the database at the peak, by what they are busy with."""

    what: str
    interface: float
    database: float


def needs(province: Assumed, prices: dict[str, Price], interface_s_gb: float, database_s_gb: float) -> list[Need]:
    """Processors at the peak. A gigabyte in chunks of full size costs what it was measured to cost."""
    rate = province.per_s
    whole, chunk = prices["scan"], prices["chunk"]
    control = (
        rate * (whole.interface_ms - chunk.interface_ms) / 1000,
        rate * (whole.database_ms - chunk.database_ms) / 1000,
    )
    looks = [prices["status"], prices["returns"]]

    def of(what: str, per_s: float, *which: Price) -> Need:
        return Need(
            what,
            per_s * sum(one.interface_ms for one in which) / 1000,
            per_s * sum(one.database_ms for one in which) / 1000,
        )

    return [
        of("tokens", province.scanners / province.token_s, prices["token"]),
        Need("open, announce, commit", *control),
        Need("chunks", rate * province.sent_gb * interface_s_gb, rate * province.sent_gb * database_s_gb),
        of("looking", rate * province.looks, *looks),
        of("images of the series", rate * province.images, prices["file"]),
        of("acknowledging", rate, prices["acknowledge"]),
    ]
