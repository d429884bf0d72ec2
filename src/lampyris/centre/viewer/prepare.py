"""The npm package @ohif/app as it was published → a folder of files that can be served below a path of our own.

The build asks for its parts from the root of an origin: that path is a text in its code. It is changed, modes that the
centre has no use for are left out, and one known fault is mended; each change is counted, so that a release that is
built otherwise is refused instead of half working.
"""

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from lampyris.durable import lay_down
from lampyris.model import InputError, StorageError

PLACE = "/viewer"
"""Path of the viewer; its files lie below PLACE/files/RELEASE, and never change there."""
_LEFT_OUT = (
    "ort/", "dicom-microscopy-viewer/", "customizations/", "assets/", "app-config.js", "google.js", "index.html",
    "init-service-worker.js", "sw.js", "silent-refresh.html", "oidc-client.min.js", "serve.json", "manifest.json",
    "polyfill.min.js", "es6-shim.min.js", "_headers", "_redirects",
)  # fmt: skip
"""Models for segmentation, microscopy, service workers, others' sign-in: 120 MB that no page of ours asks for."""
_MODES = re.compile(r"^pluginImports_modes\.push\(.*\);$", re.MULTILINE)
_ROOT = '__webpack_require__.p = "/";'
_FAULT, _MENDED = "voiLutModule.voiLUTFunction[0])", "[voiLutModule.voiLUTFunction].flat()[0])"
"""Of a VOI LUT Function (0028,1056) its first letter is kept, and the image is not drawn; our maps bear LINEAR_EXACT.

github.com/cornerstonejs/cornerstone3D/issues/2844
"""
_TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".woff2": "font/woff2",
          ".svg": "image/svg+xml", ".json": "application/json", ".png": "image/png"}  # fmt: skip
_TO_PACK = {".js", ".css", ".wasm", ".svg", ".json"}
_LARGEST = 64 << 20
_LIST = "release.json"


@dataclass(frozen=True, slots=True)
class Release:
    """A viewer that was prepared: `id` names version and content, `script` and `styles` are what its page loads.

    `files` has the media type of each file, `packed` those of which there is a file NAME.gz, too.
    """

    id: str
    version: str
    script: str
    styles: tuple[str, ...]
    files: dict[str, str]
    packed: frozenset[str]

    @property
    def root(self) -> str:
        """Path that all files are asked for below."""
        return f"{PLACE}/files/{self.id}/"


def prepare(package: Path, folder: Path) -> Release:
    """Lay the viewer down in `folder`, which appears whole or stays as it was; the same package changes nothing.

    `package` is the folder node_modules/@ohif/app. Raises InputError when it is no build that we know, StorageError.
    """
    version = _version(package)
    sources = dict(_sources(package / "dist"))
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name, place in sources.items():
        digest.update(f"{name}\0{place.stat().st_size}\0".encode() + hashlib.sha256(place.read_bytes()).digest())
    name = f"{version}-{digest.hexdigest()[:12]}"
    found = release_of(folder)
    if found is not None and found.id == name:
        return found
    try:
        return _lay_down(sources, name, version, folder)
    except OSError as error:
        raise StorageError(f"the viewer cannot be written to {folder} ({error.strerror}): is the disk full?") from error


def release_of(folder: Path) -> Release | None:
    """What is prepared in a folder; None where nothing is."""
    place = folder / _LIST
    try:
        return _read(place, place.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return None


@lru_cache(maxsize=4)
def _read(place: Path, _changed_ns: int) -> Release:
    told = json.loads(place.read_text("utf-8"))
    return Release(**(told | {"styles": tuple(told["styles"]), "packed": frozenset(told["packed"])}))


def _version(package: Path) -> str:
    try:
        told = json.loads((package / "package.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{package} holds no package.json: give the folder node_modules/@ohif/app") from error
    if told.get("name") != "@ohif/app":
        raise InputError(f"{package} is the package {told.get('name')}, not @ohif/app")
    return str(told["version"])


def _sources(dist: Path) -> Iterator[tuple[str, Path]]:
    """Name and place of each file that is served, in order of names."""
    for place in sorted(dist.rglob("*")):
        name = place.relative_to(dist).as_posix()
        kept = place.is_file() and place.suffix in _TYPES and not name.startswith(_LEFT_OUT)
        if kept and place.stat().st_size <= _LARGEST:
            yield name, place


def _lay_down(sources: dict[str, Path], name: str, version: str, folder: Path) -> Release:
    scripts = [one for one in sources if re.fullmatch(r"app\.bundle\.\w+\.js", one)]
    if len(scripts) != 1:
        raise InputError(f"@ohif/app {version} has {len(scripts)} files app.bundle.*.js, expected 1: another build?")
    styles = tuple(one for one in ("app.bundle.css",) if one in sources)
    packed = frozenset(one for one in sources if Path(one).suffix in _TO_PACK)
    files = {one: _TYPES[Path(one).suffix] for one in sources}
    release = Release(name, version, scripts[0], styles, files, packed)
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    for one, place in sources.items():
        content = _patched(place, one == release.script, release.root)
        target = draft / one
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if one in packed:
            target.with_name(target.name + ".gz").write_bytes(gzip.compress(content, 6, mtime=0))
    told = asdict(release) | {"packed": sorted(packed)}
    lay_down(draft / _LIST, [json.dumps(told, ensure_ascii=False, indent=1).encode()])
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return release


def _patched(place: Path, is_application: bool, root: str) -> bytes:
    """A file that asks for others below `root`; the application also without modes that the centre has not."""
    if place.suffix == ".css":
        return place.read_text("utf-8").replace("url(/", f"url({root}").encode()
    if place.suffix != ".js":
        return place.read_bytes()
    text = place.read_text("utf-8")
    if is_application:
        text, dropped = _MODES.subn("", text)
        found = text.count(_ROOT), text.count(_FAULT), dropped > 0
        if found != (1, 1, True):
            raise InputError(f"{place.name}: public path, known fault, modes are there {found}, expected (1, 1, True)")
        text = text.replace(_FAULT, _MENDED)
    return text.replace(_ROOT, f"__webpack_require__.p = {json.dumps(root)};").encode()
