"""One TOML file → `Config`: where scans appear, which centre, how fast, and which PACS; checked once, told in words."""

import dataclasses
import re
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from lampyris.model import InputError, StorageError
from lampyris.raw import Policy
from lampyris.transfer import limits

VERDICTS = ("pass", "look", "stop")
Purpose: TypeAlias = Literal["clinical", "phantom", "calibration", "quality"]
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LEAST_CHUNK = 1 << 20
_AE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
T = TypeVar("T")


class ConfigError(InputError):
    """The configuration holds something that is unknown, missing or impossible."""

    code = "INPUT_CONFIG"


@dataclass(frozen=True, slots=True)
class CentreLink:
    """The centre and the line to it.

    `link_mbit_per_s` is what the line carries upwards, by which the policy chooses a coding (0 = not known);
    `limit_mbit_per_s` what the agent may take of it, and `limit_down_mbit_per_s` what returned series may take of the
    line downwards (0 = all). `ca_file` holds certificates of an authority of one's
    own; `proxy` is an HTTP proxy.
    """

    url: str
    ca_file: Path | None = None
    proxy: str | None = None
    link_mbit_per_s: float = 0.0
    limit_mbit_per_s: float = 0.0
    limit_down_mbit_per_s: float = 0.0
    in_flight: int = 4
    poll_s: float = 10.0

    def __post_init__(self) -> None:
        _check_url(self.url, "centre.url")
        _at_least(0, "centre", link_mbit_per_s=self.link_mbit_per_s, limit_mbit_per_s=self.limit_mbit_per_s)
        _at_least(0, "centre", limit_down_mbit_per_s=self.limit_down_mbit_per_s)
        _above(0, "centre", poll_s=self.poll_s)
        if not 1 <= self.in_flight < limits.IN_FLIGHT:
            # one request of the protocol's eight is left for asking after states
            raise ConfigError(f"centre.in_flight is {self.in_flight}: expected 1 … {limits.IN_FLIGHT - 1}")

    @property
    def chunk_bytes(self) -> int:
        """How large chunks are cut: what the line carries in half a second, 1 MiB at least, a power of two.

        What is in flight when the line breaks, or STAT goes first, is sent again: the slower the line, the dearer.
        """
        if not self.link_mbit_per_s:
            return limits.CHUNK_BYTES
        carried = int(self.link_mbit_per_s * 1e6 / 8 / 2)
        return min(limits.CHUNK_BYTES, max(_LEAST_CHUNK, 1 << carried.bit_length() - 1))


@dataclass(frozen=True, slots=True)
class Watch:
    """The folder where the scanner puts its scans.

    `complete` "order": a scan NAME is taken when its order NAME.json lies beside it, which is written last; "settled":
    when nothing of it has changed for `settle_s`. `after`: whether what was packed is left where it is, or deleted.
    `purpose` is that of scans whose order does not say it.
    """

    folder: Path
    complete: Literal["order", "settled"] = "order"
    settle_s: float = 30.0
    poll_s: float = 2.0
    after: Literal["keep", "delete"] = "keep"
    purpose: Purpose = "clinical"

    def __post_init__(self) -> None:
        _above(0, "watch", settle_s=self.settle_s, poll_s=self.poll_s)


@dataclass(frozen=True, slots=True)
class Coding:
    """The policy of the codec, as `raw.Policy` has it; `protocols` pattern = coding, the first that fits decides."""

    clinical: Literal["lossless", "sigma/4", "sigma/2"] = "sigma/4"
    slow: Literal["lossless", "sigma/4", "sigma/2"] = "sigma/2"
    slow_mbit_per_s: float = 50.0
    protocols: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.policy()
        except InputError as error:
            raise ConfigError(f"policy: {error}") from error

    def policy(self) -> Policy:
        rules: Any = tuple(self.protocols.items())
        return Policy(rules, self.clinical, self.slow, self.slow_mbit_per_s)


@dataclass(frozen=True, slots=True)
class Keeping:
    """The spool: bytes of disk that are kept free, and days that a refused scan is kept for a second look."""

    free_gb: float = 2.0
    refused_days: float = 30.0

    def __post_init__(self) -> None:
        _at_least(0, "spool", free_gb=self.free_gb, refused_days=self.refused_days)


@dataclass(frozen=True, slots=True)
class Dicom:
    """A PACS that is spoken to by C-STORE."""

    name: str
    host: str
    port: int
    called: str
    calling: str = "LAMPYRIS"
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"pacs {self.name}: port {self.port}: expected 1 … 65535")
        for title in (self.called, self.calling):
            if not _AE.fullmatch(title):
                raise ConfigError(f"pacs {self.name}: an AE title of {len(title)} characters: expected 1 … 16, no \\")


@dataclass(frozen=True, slots=True)
class Stow:
    """A PACS that is spoken to by STOW-RS; `url` is that below which `/studies` lies.

    `authorization_file` holds the value of the Authorization header, one line.
    """

    name: str
    url: str
    authorization_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _check_url(self.url, f"pacs {self.name}: url")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that takes every file of a series, each whole or not at all, below a folder named after the scan."""

    name: str
    folder: Path


Pacs: TypeAlias = Dicom | Stow | Folder
_PACS: dict[str, type[Pacs]] = {"dicom": Dicom, "stow": Stow, "folder": Folder}


@dataclass(frozen=True, slots=True)
class Config:
    """A site. `folder` holds keys and spool; `identity` "local" stays there, "sealed" also travels, encrypted.

    `forward` names the verdicts whose series go to the PACS; others are kept in the spool and shown.
    """

    folder: Path
    centre: CentreLink
    pacs: tuple[Pacs, ...]
    watch: Watch | None = None
    policy: Coding = field(default_factory=Coding)
    spool: Keeping = field(default_factory=Keeping)
    identity: Literal["local", "sealed"] = "local"
    forward: tuple[str, ...] = ("pass", "look")

    def __post_init__(self) -> None:
        names = [each.name for each in self.pacs]
        if not names or len(set(names)) < len(names) or not all(limits.TOKEN.fullmatch(name) for name in names):
            raise ConfigError("pacs: expected at least one, with distinct short names in lower case")
        if unknown := sorted(set(self.forward) - set(VERDICTS)):
            raise ConfigError(f"forward holds {unknown[0]!r}: expected verdicts of {', '.join(VERDICTS)}")
        if self.watch is not None and _nested(self.watch.folder, self.folder):
            raise ConfigError("watch.folder and folder lie in one another: the agent would find its own files")


def load(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError that names the entry, StorageError when it cannot be read."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StorageError(f"the configuration {path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path.name} is no TOML in UTF-8: {error}") from error
    return parse(values, path.parent)


def parse(values: dict[str, Any], base: Path) -> Config:
    """The configuration that TOML values tell; relative paths begin at `base`."""
    rest = dict(values)
    pacs = rest.pop("pacs", [])
    if not isinstance(pacs, list) or not all(isinstance(each, dict) for each in pacs):
        raise ConfigError("pacs: expected tables, [[pacs]]")
    return _built(Config, rest, "", base, pacs=tuple(_pacs(dict(each), base) for each in pacs))


def _pacs(values: dict[str, Any], base: Path) -> Pacs:
    kind, where = values.pop("kind", None), f"pacs {values.get('name')!r}"
    if kind not in _PACS:
        raise ConfigError(f"{where}: kind is {kind!r}, expected one of {', '.join(_PACS)}")
    return _built(_PACS[kind], values, where, base)


def _built(cls: type[T], values: dict[str, Any], where: str, base: Path, **made: Any) -> T:
    """A dataclass from a table; every entry is known and of its type."""
    types = get_type_hints(cls)
    known = [each for each in dataclasses.fields(cls) if each.name not in made]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - {each.name for each in known}):
        raise ConfigError(f"{_at(where, unknown[0])} is not known; known are {', '.join(f.name for f in known)}")
    for each in known:
        if each.name in values:
            made[each.name] = _value(values[each.name], types[each.name], _at(where, each.name), base)
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_at(where, each.name)} is missing")
    return cls(**made)


def _value(value: Any, kind: Any, where: str, base: Path) -> Any:
    """A value of its type; options of a union are tried in turn."""
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _built(typing.cast(type[Any], kind), value, where, base)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind is Path and isinstance(value, str) and value:
        return base / Path(value).expanduser()
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    if get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if get_origin(kind) is dict and isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return value
    wanted = " | ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else getattr(kind, "__name__", kind)
    raise ConfigError(f"{where}: expected {wanted}, found a {type(value).__name__}")


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _check_url(url: str, where: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{where}: expected https://HOST[:PORT]")
    if parts.username or parts.password:
        raise ConfigError(f"{where}: names and passwords do not belong into a URL")
    if where == "centre.url" and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError(f"{where}: without TLS on the loopback interface alone; expected https://")


def _at_least(low: float, where: str, **values: float) -> None:
    for name, value in values.items():
        if not value >= low:
            raise ConfigError(f"{where}.{name} is {value}: expected at least {low}")


def _above(low: float, where: str, **values: float) -> None:
    for name, value in values.items():
        if not value > low:
            raise ConfigError(f"{where}.{name} is {value}: expected more than {low}")


def _nested(one: Path, other: Path) -> bool:
    first, second = one.resolve(), other.resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)
