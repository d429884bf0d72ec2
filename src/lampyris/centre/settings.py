"""What an operator chose → `Settings`, the same for the API and every worker, and its JSON for processes between."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampyris.model import InputError

VARIABLE = "LAMPYRIS_CENTRE"
"""Environment variable that carries the settings, as JSON, from `lampyris serve` to its server processes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A centre: where its database and objects are, its public name, and its limits.

    `folder` holds all that is given no other place; `dsn` None = a PostgreSQL of our own in `folder/database`; `store`
    None = `folder/objects`, or a URL such as s3://bucket/prefix (credentials come from the environment); `audience` is
    what sites address their assertions to: the public URL. How long things are kept stands in the database.
    """

    folder: Path
    audience: str = "http://127.0.0.1:8470"
    dsn: str | None = None
    store: str | None = None
    recipe: str | None = None
    companion: str | None = None
    """Recipe with which every scan that is done is made once more, when workers are idle: what it is compared with."""
    viewer: Path | None = None
    """Folder of the reading viewer, as `lampyris centre viewer` prepares it; None = `folder/viewer`."""
    traces: str | None = None
    """URL of an OTLP collector that traces of scans are sent to; needs the extra `otel`."""
    aet: str = "LAMPYRIS"
    """AE title of the centre in the DICOM network."""
    dicom_tls: str | None = None
    """Folder of cert.pem, key.pem and ca.pem for DICOM over TLS."""
    stow_keys: str | None = None
    """File (TOML) of what stands in the Authorization header of STOW-RS to a node, by AE title."""
    open_scans: int = 64
    """Scans that one site may have open; as many again for STAT."""
    waiting_scans: int = 20_000
    """Scans that may wait for workers before routine ones are asked to come later."""
    bodies: int = 128
    """Chunks that one API process receives at a time, each in memory: 8 MiB × this."""
    free_bytes: int = 2 << 30
    """Space that is kept free in a folder store: below it chunks wait, below half of it STAT too."""
    tries: int = 3
    heartbeat_s: float = 2.0
    """Interval of a worker's sign of life; after six without one its scan is queued again."""
    early_bytes: int = 16 << 30
    """What may be kept for one site of scans that still arrive, made while workers were idle; 0 = no early work."""

    oidc: str | None = None
    """File (TOML) that describes the OpenID provider that people sign in at; its secret comes from the environment."""
    behind_proxy: bool = False
    """Whether a proxy in front, which speaks TLS, says in X-Forwarded-For where requests come from."""
    requests_per_s: float = 50.0
    """Requests of one session or token that each API process answers in the long run; sixty times as many at once."""
    upload_bytes: int = 8 << 30
    """Longest body of one request that stores DICOM."""
    stored_bytes: int = 200 << 30
    """What one account, or one DICOM node, may store in a day."""

    def __post_init__(self) -> None:
        numbers = (self.open_scans, self.waiting_scans, self.bodies, self.tries, self.heartbeat_s, self.requests_per_s)
        if min(numbers) <= 0 or min(self.free_bytes, self.early_bytes, self.upload_bytes, self.stored_bytes) < 0:
            raise InputError("settings of the centre: counts and intervals must be > 0, bytes ≥ 0")

    @property
    def viewer_folder(self) -> Path:
        """Where the reading viewer is, if there is one."""
        return self.folder / "viewer" if self.viewer is None else self.viewer

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> "Settings":
        """Raises InputError for unknown entries."""
        try:
            values: dict[str, Any] = json.loads(text)
            places = {name: Path(values[name]) for name in ("folder", "viewer") if values.get(name) is not None}
            return Settings(**(values | places))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{VARIABLE} does not hold settings of a centre: {type(error).__name__}") from error
