"""One committed scan → files of a judged series: its chunks are laid out, and the table of stations is run.

What was made of its first views while it arrived is taken where it is of the chunks that the manifest names. Nothing
here knows of states or of the database: what it raises says who is at fault.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from lampyris import path, raw, recipes
from lampyris.centre.jobs.early import FORMAT
from lampyris.centre.jobs.shelf import EarlyShelf
from lampyris.centre.store import Store, early_prefix, raw_prefix, series_prefix
from lampyris.model import (
    Assessment,
    FormatError,
    InputError,
    MachineError,
    Passport,
    ProgramError,
    Projections,
    RawScan,
    Recipe,
    Study,
    Volume,
)
from lampyris.report import Column, write_page
from lampyris.transfer import Manifest, ReturnedFile, limits

_ASSESSMENT, _PAGE = "assessment.json", "report.html"
_FOLD, _SMALL = 64, 64 << 20
"""What a scan may unfold to: noise cannot be packed tenfold, and 64 MiB harm nobody."""


def lay_out(store: Store, manifest: Manifest, folder: Path) -> Path:
    """The scan's parts as files, verified: the file if there is one part, the folder if there are many."""
    for part in manifest.parts:
        target = folder / part.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in part.chunks:
                file.write(store.get(raw_prefix(manifest.site, manifest.scan), chunk.digest))
    return folder / manifest.parts[0].name if len(manifest.parts) == 1 else folder


def open_scan(manifest: Manifest, place: Path) -> RawScan:
    """The raw scan, with the content that the site says it has; InputError otherwise."""
    scan = raw.read(place)
    unfolded, largest = math.prod(scan.counts.shape) * scan.counts.dtype.itemsize, _SMALL + _FOLD * manifest.size
    if unfolded > largest:
        raise FormatError(
            f"{manifest.size} bytes unfold to {unfolded} bytes of counts, more than {_FOLD} times as many: a bomb?"
        )
    if manifest.content is not None:
        if manifest.format == "lraw":
            raw.verify(place)
            found = scan.id
        else:
            found = scan.digest()
        if found != manifest.content:
            raise FormatError(
                f"the parts unpack to a scan with content {found[:12]}…, the manifest says {manifest.content[:12]}…:"
                " packed from another scan, or by another version?"
            )
    return scan


def recipe_of(manifest: Manifest, default: str | None, scan: RawScan) -> Recipe:
    """The recipe that the site asked for, or the centre's, with the image as the site planned it.

    Only recipes of our own can be named from outside.

    One that does not exist is the site's fault if the site named it, the operator's otherwise.
    """
    name = manifest.recipe or default
    if name is None:
        name = "industrial" if scan.spectrum is None and scan.water_per_mm is None else "routine"
    if name not in recipes.names():
        blame = MachineError if manifest.recipe is None else InputError
        raise blame(f"the centre has no recipe {name!r}; it has {', '.join(recipes.names())}")
    chosen, image = recipes.recipe(name), manifest.image
    if image is None:
        return chosen
    asked = {one.name: getattr(image, one.name) for one in dataclasses.fields(image)}
    return dataclasses.replace(chosen, grid=dataclasses.replace(chosen.grid, **asked))


def reconstruct(
    store: Store,
    manifest: Manifest,
    folder: Path,
    *,
    default: str | None,
    committed: datetime,
    watch: path.Watch,
    early: Callable[[int, int], None] = lambda _hits, _misses: None,
) -> tuple[list[ReturnedFile], str]:
    """Every file of the series, in the store, and the gate's verdict.

    `folder` is empty and the caller's to delete. The moment in the images is that of the commit, so that a second try
    makes the same series. `early` is told how much was there that could be, and was not: hits and misses.
    """
    watch("fetch", 0.0)
    raw_folder, series_folder = folder / "raw", folder / "series"
    raw_folder.mkdir()
    place = lay_out(store, manifest, raw_folder)
    scan = open_scan(manifest, place)
    recipe = recipe_of(manifest, default, scan)
    given = (
        scan,
        recipe,
        path.Reference(),
        Study(**dict(manifest.study)),
        path.Destination(series_folder, "ct", committed),
    )
    shelf = shelf_of(store, manifest, place, scan, recipe)
    made = path.travel(given, path.Series, watch=watch, shelf=shelf)
    assessment = made.the(Assessment)
    if shelf is not None:
        early(shelf.hits, shelf.misses)
    (series_folder / _ASSESSMENT).write_text(json.dumps(assessment.as_dict(), ensure_ascii=False), "utf-8")
    write_page(series_folder / _PAGE, "A judged series", f"scan {manifest.scan}", [_column(made)])
    watch("store", 0.0)
    return keep(store, series_prefix(manifest.site, manifest.scan), series_folder), assessment.verdict


def _column(made: path.Journey) -> Column:
    """The image as the page shows it; without the seconds that it took, so that a second try makes the same page."""
    scan, recipe = made.the(RawScan), made.the(Recipe)
    return Column(
        "image", made.the(Volume), made.the(Assessment), recipe, scan.acquisition, made.the(Projections).history, (),
        ".", scan.geometry.shape, f"method {recipe.method.name}", made.the(Passport),
    )  # fmt: skip


def shelf_of(store: Store, manifest: Manifest, place: Path, scan: RawScan, recipe: Recipe) -> EarlyShelf | None:
    """What was made while the scan arrived, of these very chunks; None where nothing was made."""
    if manifest.format != FORMAT or len(manifest.parts) != 1:
        return None
    if store.is_empty(early_prefix(manifest.site, manifest.scan)):
        return None
    shelf = EarlyShelf(store, manifest.site, manifest.scan)
    shelf.over(scan, recipe, raw.ends(place), manifest.parts[0].chunks)
    return shelf


def keep(store: Store, prefix: str, folder: Path) -> list[ReturnedFile]:
    """Put every file of a folder into the store under its digest."""
    files = []
    for place in _files(folder):
        name = place.relative_to(folder).as_posix().lower()
        if not limits.NAME.fullmatch(name):
            raise ProgramError(f"a file of a series is called {name}: the protocol knows no such name")
        size, digest = store.put_file(prefix, place)
        files.append(ReturnedFile(name, size, digest))
    if len({one.name for one in files}) != len(files):
        raise ProgramError("two files of a series differ in nothing but capitals")
    return files


def _files(folder: Path) -> Sequence[Path]:
    return sorted(Path(above) / name for above, _, names in os.walk(folder) for name in names)
