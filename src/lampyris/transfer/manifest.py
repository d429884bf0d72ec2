"""What a site says of a scan → the chunks, parts and manifest that site and centre agree on, checked on creation.

A part is one named file of the packed scan, cut into chunks; a chunk is named by the SHA-256 of its bytes. The manifest
names all parts and is what the site signs. A manifest without parts is the skeleton that opens a scan.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from lampyris.model.arrays import canonical_json
from lampyris.transfer import limits
from lampyris.transfer.strict import Fields, ManifestError, parse_object

Priority: TypeAlias = Literal["stat", "routine", "batch"]
PRIORITIES = get_args(Priority)
Scalar: TypeAlias = str | int | float | bool

STUDY = {
    "PatientID": re.compile(r"[0-9A-Za-z.-]{1,64}"),
    "PatientSex": re.compile(r"[MFO]"),
    "PatientAge": re.compile(r"[0-9]{3}[DWMY]"),
    "StudyInstanceUID": re.compile(r"(?=.{1,64}$)[0-2](?:\.(?:0|[1-9][0-9]*))+"),
    "AccessionNumber": re.compile(r"[0-9A-Za-z.-]{1,16}"),
}
"""What of a study may travel in the clear: pseudonyms, sex and age; a name or a date of birth has no place to stand."""

_FORMS = {
    "scan": limits.SCAN,
    "site": limits.SITE,
    "started": limits.MOMENT,
    "format": limits.TOKEN,
    "recipe": limits.TOKEN,
    "content": limits.DIGEST,
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes, named by their SHA-256; 1 … 8 MiB."""

    digest: str
    size: int

    def __post_init__(self) -> None:
        if not limits.DIGEST.fullmatch(self.digest):
            raise ManifestError("a chunk's digest is not a SHA-256 of 64 lower-case hexadecimal digits")
        if not 1 <= self.size <= limits.CHUNK_BYTES:
            raise ManifestError(f"a chunk of {self.size} bytes: expected 1 … {limits.CHUNK_BYTES}")

    @staticmethod
    def of(data: bytes) -> "Chunk":
        return Chunk(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the packed scan: its name, its chunks in order, and the views (first, count) that it holds, if any.

    A part that says its views can be reconstructed from before the scan is committed.
    """

    name: str
    chunks: tuple[Chunk, ...]
    views: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not limits.NAME.fullmatch(self.name):
            raise ManifestError(f"a part's name of {len(self.name)} characters is not of the form allowed")
        if not 1 <= len(self.chunks) <= limits.CHUNKS:
            raise ManifestError(f"part {self.name} has {len(self.chunks)} chunks: expected 1 … {limits.CHUNKS}")
        if self.views is not None and not (0 <= self.views[0] < 1 << 31 and 1 <= self.views[1] < 1 << 31):
            raise ManifestError(f"part {self.name} holds views {self.views}: expected (first ≥ 0, count ≥ 1)")

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return sum(chunk.size for chunk in self.chunks)

    def offsets(self) -> Iterator[tuple[Chunk, int]]:
        """Every chunk and the byte of the part's file at which it begins."""
        at = 0
        for chunk in self.chunks:
            yield chunk, at
            at += chunk.size

    def as_dict(self) -> dict[str, Any]:
        chunks = [[chunk.digest, chunk.size] for chunk in self.chunks]
        whole: dict[str, Any] = {"name": self.name, "chunks": chunks}
        return whole if self.views is None else whole | {"views": list(self.views)}

    @staticmethod
    def of_file(name: str, path: Path, *, views: tuple[int, int] | None = None) -> "Part":
        """The part that a file becomes, cut every 8 MiB. Raises OSError like the file, ManifestError when empty."""
        with path.open("rb") as file:
            chunks = tuple(Chunk.of(data) for data in iter(lambda: file.read(limits.CHUNK_BYTES), b""))
        return Part(name, chunks, views)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """The image as it was planned before the scan: a square field of view of this side about (x, z), and the middles of
    its first and last slice along y; mm in the gantry frame of docs/conventions.md.

    A centre that knows it need not wait for the whole scan to know where slices lie.
    """

    field_of_view_mm: float
    centre_mm: tuple[float, float]
    first_mm: float
    last_mm: float

    def __post_init__(self) -> None:
        places = (*self.centre_mm, self.first_mm, self.last_mm)
        if not (1 <= self.field_of_view_mm <= 1000 and max(abs(each) for each in places) <= 10_000):
            raise ManifestError(
                "image: expected a field of view of 1 … 1000 mm, and places within 10 m of the isocentre"
            )
        if self.last_mm < self.first_mm:
            raise ManifestError("image: the last slice lies before the first along y")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"centre_mm": list(self.centre_mm)}

    @staticmethod
    def of(value: Any) -> "PlannedImage":
        """As a stranger wrote it; ManifestError."""
        fields = Fields(value, "image")
        centre = fields.list("centre_mm", 2)
        middle = Fields(dict(zip("xz", centre, strict=False)), "the centre of the image")
        found = PlannedImage(
            fields.real("field_of_view_mm"),
            (middle.real("x"), middle.real("z")),
            fields.real("first_mm"),
            fields.real("last_mm"),
        )
        fields.end()
        return found


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a site says of one scan; signed on commit, sent without parts to open the scan.

    `scan` 32 hexadecimal digits chosen by the site, the key under which everything is idempotent; `site` as enrolled;
    `started` when the scan began (RFC 3339, UTC); `recipe` by name, None = the centre's default; `image` where the
    slices are to lie, None = chosen from the scan; `format` what the parts are, laid out under their names; `packing`
    how the counts were packed (codec, step in σ …), recorded with the image; `study` pseudonyms under their DICOM
    keywords; `sealed` opaque text for the site alone, handed back with the series; `content` the id of the raw scan
    that the parts unpack to, verified by the centre where it is given.
    """

    scan: str
    site: str
    started: str
    format: str
    parts: tuple[Part, ...] = ()
    priority: Priority = "routine"
    recipe: str | None = None
    image: PlannedImage | None = None
    packing: tuple[tuple[str, Scalar], ...] = ()
    study: tuple[tuple[str, str], ...] = ()
    sealed: str | None = field(default=None, repr=False)
    content: str | None = None

    def __post_init__(self) -> None:
        for name, pattern in _FORMS.items():
            value = getattr(self, name)
            if value is not None and not pattern.fullmatch(value):
                raise ManifestError(f"the manifest's {name} does not have the form {pattern.pattern}")
        if self.priority not in PRIORITIES:
            raise ManifestError(f"the manifest's priority is not one of {', '.join(PRIORITIES)}")
        if self.sealed is not None and not 1 <= len(self.sealed) <= limits.SEALED_CHARACTERS:
            raise ManifestError(f"sealed has {len(self.sealed)} characters, expected 1 … {limits.SEALED_CHARACTERS}")
        _check_parts(self.parts)
        _check_packing(self.packing)
        _check_study(self.study)
        object.__setattr__(self, "packing", tuple(sorted(self.packing)))
        object.__setattr__(self, "study", tuple(sorted(self.study)))

    @property
    def size(self) -> int:
        """Bytes of all parts' files."""
        return sum(part.size for part in self.parts)

    def chunks(self) -> dict[str, int]:
        """Every chunk once: digest → bytes, in the order of the parts."""
        return {chunk.digest: chunk.size for part in self.parts for chunk in part.chunks}

    def skeleton(self) -> "Manifest":
        """What opens the scan: all that is known before the first byte is."""
        return dataclasses.replace(self, parts=(), content=None)

    def to_json(self) -> bytes:
        """Canonical JSON; what is absent is left out."""
        whole: dict[str, Any] = {
            "protocol": limits.PROTOCOL,
            "scan": self.scan,
            "site": self.site,
            "started": self.started,
            "format": self.format,
            "priority": self.priority,
            "recipe": self.recipe,
            "image": None if self.image is None else self.image.as_dict(),
            "packing": dict(self.packing) or None,
            "study": dict(self.study) or None,
            "sealed": self.sealed,
            "content": self.content,
            "parts": [part.as_dict() for part in self.parts],
        }
        return canonical_json({name: value for name, value in whole.items() if value is not None}).encode()

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, which is what this package signs."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @staticmethod
    def parse(data: bytes) -> "Manifest":
        """A manifest as a stranger sent it; raises ManifestError for anything that the protocol does not allow."""
        fields = Fields(parse_object(data, largest=limits.MANIFEST_BYTES, what="the manifest"), "the manifest")
        fields.choice("protocol", (limits.PROTOCOL,))
        found = Manifest(
            scan=fields.text("scan", limits.SCAN),
            site=fields.text("site", limits.SITE),
            started=fields.text("started", limits.MOMENT),
            format=fields.text("format", limits.TOKEN),
            parts=parse_parts(fields.list("parts", limits.PARTS)),
            priority=cast(Priority, fields.choice("priority", PRIORITIES)) if fields.has("priority") else "routine",
            recipe=fields.text("recipe", limits.TOKEN) if fields.has("recipe") else None,
            image=PlannedImage.of(fields.object("image")) if fields.has("image") else None,
            packing=tuple(fields.object("packing").items()) if fields.has("packing") else (),
            study=tuple(fields.object("study").items()) if fields.has("study") else (),
            sealed=fields.text("sealed", _PRINTABLE) if fields.has("sealed") else None,
            content=fields.text("content", limits.DIGEST) if fields.has("content") else None,
        )
        fields.end()
        return found


_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_TEXT = re.compile(r"[\x20-\x7e]{0,128}")


def parse_parts(values: list[Any]) -> tuple[Part, ...]:
    """The parts of a manifest or of an announcement; ManifestError when one is malformed or two share a name."""
    parts = tuple(_part(value) for value in values)
    _check_parts(parts)
    return parts


def _part(value: Any) -> Part:
    fields = Fields(value, "a part")
    name = fields.text("name", limits.NAME)
    chunks = tuple(_chunk(each) for each in fields.list("chunks", limits.CHUNKS))
    views = _views(fields.list("views", 2)) if fields.has("views") else None
    fields.end()
    return Part(name, chunks, views)


def _chunk(value: Any) -> Chunk:
    match value:
        case [str(digest), int(size)] if not isinstance(size, bool):
            return Chunk(digest, size)
    raise ManifestError("a chunk is not written as [digest, bytes]")


def _views(value: list[Any]) -> tuple[int, int]:
    match value:
        case [int(first), int(count)] if not isinstance(first, bool) and not isinstance(count, bool):
            return first, count
    raise ManifestError("views are not written as [first, count]")


def _check_parts(parts: Iterable[Part]) -> None:
    names: set[str] = set()
    sizes: dict[str, int] = {}
    chunks = 0
    for part in parts:
        if part.name in names:
            raise ManifestError(f"two parts are called {part.name}")
        names.add(part.name)
        chunks += len(part.chunks)
        for chunk in part.chunks:
            if sizes.setdefault(chunk.digest, chunk.size) != chunk.size:
                raise ManifestError(f"chunk {chunk.digest[:12]}… is said to have two sizes")
    if len(names) > limits.PARTS or chunks > limits.CHUNKS:
        raise ManifestError(
            f"{len(names)} parts with {chunks} chunks: at most {limits.PARTS} and {limits.CHUNKS} are allowed"
        )
    for name in names:
        above = name.split("/")[:-1]
        if any("/".join(above[:depth]) in names for depth in range(1, len(above) + 1)):
            raise ManifestError(f"part {name} lies below another part as if that were a folder")


def _check_packing(packing: tuple[tuple[str, Scalar], ...]) -> None:
    if len(packing) > limits.PACKING_ENTRIES:
        raise ManifestError(f"packing has {len(packing)} entries, at most {limits.PACKING_ENTRIES} are allowed")
    for name, value in packing:
        if isinstance(value, str):
            plain = bool(_TEXT.fullmatch(value))
        else:
            plain = isinstance(value, (int, float)) and abs(value) < 1e300
        if not limits.TOKEN.fullmatch(name) or not plain:
            raise ManifestError("packing holds an entry that is not a short name with a short text, number or truth")


def _check_study(study: tuple[tuple[str, str], ...]) -> None:
    for name, value in study:
        if name not in STUDY:
            raise ManifestError(
                f"study holds an entry that may not travel in the clear; allowed are {', '.join(STUDY)}"
            )
        if not isinstance(value, str) or not STUDY[name].fullmatch(value):
            raise ManifestError(f"study: {name} does not have the form {STUDY[name].pattern}")
