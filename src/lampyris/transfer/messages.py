"""What the centre tells a site → JSON, and back: states of scans, returned series, enrolment, and refusals.

A reader ignores entries that it does not know: a later minor version may add some.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from lampyris.model import LampyrisError
from lampyris.model.arrays import canonical_json
from lampyris.transfer import limits
from lampyris.transfer.strict import Fields, ManifestError, parse_object

State: TypeAlias = Literal["open", "queued", "running", "done", "refused", "failed"]
STATES = get_args(State)
TERMINAL: tuple[State, ...] = ("done", "refused", "failed")
"""Where every scan ends. `done`: a series was made; `refused`: the scan is at fault; `failed`: the centre is."""
_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ScanStatus:
    """Where one scan is. `reason` (code, message) tells why it was refused or failed, or why it waits.

    `received_bytes` counts each chunk once; `station` and `progress` (0 … 1) tell what is being done while it runs;
    `manifest` is the SHA-256 of the manifest that was committed; `returned` that the site acknowledged the series.
    """

    scan: str
    state: State
    priority: str
    updated: str
    received_bytes: int = 0
    manifest: str | None = None
    reason: tuple[str, str] | None = None
    station: str | None = None
    progress: float = 0.0
    returned: bool = False

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    def as_dict(self) -> dict[str, Any]:
        whole = {name: getattr(self, name) for name in ScanStatus.__slots__}
        return whole | {
            "reason": None if self.reason is None else dict(zip(("code", "message"), self.reason, strict=True))
        }

    @staticmethod
    def parse(data: bytes) -> "ScanStatus":
        """As a centre sent it; ManifestError when it is not what the protocol says."""
        return ScanStatus.of(parse_object(data, largest=_ANSWER_BYTES, what="a scan's status"))

    @staticmethod
    def of(values: Any) -> "ScanStatus":
        fields = Fields(values, "a scan's status")
        reason = None
        scan, state = fields.text("scan", limits.SCAN), cast(State, fields.choice("state", STATES))
        if fields.has("reason"):
            told = fields.object("reason")
            reason = (str(told.get("code", "")), str(told.get("message", "")))
        progress = values.get("progress", 0.0)
        return ScanStatus(
            scan=scan,
            state=state,
            priority=str(values.get("priority", "routine")),
            updated=fields.text("updated", limits.MOMENT),
            received_bytes=fields.number("received_bytes", 0, 1 << 62),
            manifest=fields.text("manifest", limits.DIGEST) if fields.has("manifest") else None,
            reason=reason,
            station=str(values["station"]) if values.get("station") is not None else None,
            progress=float(progress) if isinstance(progress, (int, float)) else 0.0,
            returned=values.get("returned") is True,
        )


@dataclass(frozen=True, slots=True)
class ReturnedFile:
    """One file of a returned series, in the folder structure that its name tells."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ReturnedSeries:
    """What the centre made of one scan: DICOM files, the gate's verdict, and what the site sealed for itself.

    `cursor` is its place in the list of returns, growing with time.
    """

    scan: str
    cursor: int
    made: str
    verdict: str
    files: tuple[ReturnedFile, ...]
    sealed: str | None = field(default=None, repr=False)

    def digest(self) -> str:
        """SHA-256 over scan and files, which a site sends back when it has stored all of them."""
        named = [[one.name, one.size, one.sha256] for one in sorted(self.files, key=lambda one: one.name)]
        return hashlib.sha256(canonical_json([self.scan, named]).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        files = [{"name": one.name, "bytes": one.size, "sha256": one.sha256} for one in self.files]
        plain = {name: getattr(self, name) for name in ("scan", "cursor", "made", "verdict", "sealed")}
        return plain | {"files": files, "digest": self.digest()}

    @staticmethod
    def of(values: Any) -> "ReturnedSeries":
        """As a centre sent it; ManifestError when a name could leave its folder or a digest does not fit."""
        fields = Fields(values, "a returned series")
        files = []
        for value in fields.list("files", 1 << 20):
            one = Fields(value, "a returned file")
            found = (one.text("name", limits.NAME), one.number("bytes", 0, 1 << 40), one.text("sha256", limits.DIGEST))
            files.append(ReturnedFile(*found))
        series = ReturnedSeries(
            scan=fields.text("scan", limits.SCAN),
            cursor=fields.number("cursor", 0, 1 << 62),
            made=fields.text("made", limits.MOMENT),
            verdict=str(values.get("verdict", "")),
            files=tuple(files),
            sealed=str(values["sealed"]) if values.get("sealed") is not None else None,
        )
        if fields.text("digest", limits.DIGEST) != series.digest():
            raise ManifestError("the returned series' digest is not that of its files")
        return series


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a site needs to know of itself: its id, its key's id, and the audience of its assertions."""

    site: str
    key_id: str
    audience: str

    def as_dict(self) -> dict[str, Any]:
        return {"site": self.site, "key_id": self.key_id, "audience": self.audience}

    @staticmethod
    def parse(data: bytes) -> "Enrolment":
        values = parse_object(data, largest=_ANSWER_BYTES, what="the enrolment")
        fields = Fields(values, "the enrolment")
        audience = str(values.get("audience", ""))
        return Enrolment(fields.text("site", limits.SITE), fields.text("key_id", limits.KEY_ID), audience)


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What an agent tells of itself: its version, the scans that wait in its spool, their bytes, the age of the oldest.

    `calibrations`: seconds since the last calibration scan of each scanner that had one. All ages are of the moment in
    which it was sent.
    """

    version: str
    spool_scans: int
    spool_bytes: int
    oldest_s: float
    calibrations: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SiteReport.__slots__}

    @staticmethod
    def parse(data: bytes) -> "SiteReport":
        """As a site sent it; ManifestError when it is not what the protocol says."""
        fields = Fields(parse_object(data, largest=limits.REPORT_BYTES, what="the site's report"), "the site's report")
        report = SiteReport(
            version=fields.text("version", limits.VERSION),
            spool_scans=fields.number("spool_scans", 0, limits.SPOOL_SCANS),
            spool_bytes=fields.number("spool_bytes", 0, limits.SPOOL_BYTES),
            oldest_s=_age(fields, "oldest_s"),
            calibrations=_calibrations(fields.object("calibrations") if fields.has("calibrations") else {}),
        )
        fields.end()
        return report


def _calibrations(values: dict[str, Any]) -> dict[str, float]:
    if len(values) > limits.CALIBRATIONS or not all(limits.STATION.fullmatch(name) for name in values):
        raise ManifestError(f"calibrations name at most {limits.CALIBRATIONS} scanners, each {limits.STATION.pattern}")
    fields = Fields(values, "the calibrations")
    return {name: _age(fields, name) for name in values}


def _age(fields: Fields, name: str) -> float:
    value = fields.real(name)
    if not 0.0 <= value <= limits.OLDEST_S:
        raise ManifestError(f"an age is {value:g} s, expected 0 … {limits.OLDEST_S} s")
    return value


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal (RFC 9457): HTTP status, stable code, text for people, and whether the same request may be repeated."""

    status: int
    code: str
    detail: str
    retry: bool
    missing: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        whole = {
            "type": "about:blank",
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "retry": self.retry,
        }
        return whole | {"missing": list(self.missing)} if self.missing else whole

    @staticmethod
    def of_error(error: LampyrisError, status: int) -> "Problem":
        return Problem(status, error.code, str(error), error.retry)

    @staticmethod
    def parse(status: int, data: bytes) -> "Problem":
        """The refusal that a body tells, or one made of the status alone when a machine in between answered."""
        try:
            values = parse_object(data, largest=_ANSWER_BYTES, what="the refusal")
        except ManifestError:
            values = {}
        missing = [each for each in values.get("missing") or () if isinstance(each, str)]
        retry = values.get("retry")
        return Problem(
            status,
            str(values.get("code", f"HTTP_{status}")),
            str(values.get("detail", "no reason was given")),
            retry if isinstance(retry, bool) else status in (408, 425, 429) or status >= 500,
            tuple(each for each in missing if limits.DIGEST.fullmatch(each)),
        )
