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
from typing import Any

import numpy as np

from lampyris import dicom, path, projector, raw, recon
from lampyris.centre.jobs.early import FORMAT
from lampyris.centre.jobs.shelf import EarlyShelf
from lampyris.centre.recipes.choice import Library
from lampyris.centre.store import Store, early_prefix, raw_prefix, remade_prefix, series_prefix
from lampyris.model import (
    Assessment,
    Curve,
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
_TOLD = (
    *("BodyPartExamined", "ProtocolName", "PatientPosition", "KVP", "SpiralPitchFactor", "CTDIPhantomDiameter"),
    "dose_fraction",
)
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


def recipe_of(manifest: Manifest, library: Library, scan: RawScan, other: str | None = None) -> Recipe:
    """The recipe that the site asked for, or the centre's, with the image as the site planned it; or the `other` one.

    Only recipes of the centre that were active when the scan was committed can be named. One that was not is the site's
    fault if the site named it, the operator's otherwise.
    """
    name = other or manifest.recipe or _meant(manifest, library, scan)
    chosen, image = library.recipe(name), manifest.image
    if chosen is None:
        blame = MachineError if manifest.recipe != name else InputError
        raise blame(
            f"no recipe {name!r} is active at the centre (retired, or never there?); active are"
            f" {', '.join(sorted(library.texts))}"
        )
    if image is None:
        return chosen
    asked = {one.name: getattr(image, one.name) for one in dataclasses.fields(image)}
    return dataclasses.replace(chosen, grid=dataclasses.replace(chosen.grid, **asked))


def _meant(manifest: Manifest, library: Library, scan: RawScan) -> str:
    """The recipe of a scan that names none."""
    acquisition = scan.acquisition
    age = dict(manifest.study).get("PatientAge")
    name = library.meant(acquisition.BodyPartExamined, acquisition.ProtocolName, age)
    if name is not None:
        return name
    return "industrial" if scan.spectrum is None and scan.water_per_mm is None else "routine"


def reconstruct(
    store: Store,
    manifest: Manifest,
    folder: Path,
    *,
    library: Library,
    committed: datetime,
    watch: path.Watch,
    early: Callable[[int, int], None] = lambda _hits, _misses: None,
    other: str | None = None,
    engine: str = "cpu",
) -> tuple[list[ReturnedFile], str]:
    """Every file of the series, in the store, and the gate's verdict.

    `folder` is empty and the caller's to delete. The moment in the images is that of the commit, so that a second try
    makes the same series. `early` is told how much was there that could be, and was not: hits and misses. With `other`
    the scan is made again with that recipe; its files lie apart from those of the first series. `engine` is what its
    images are computed on.
    """
    watch("fetch", 0.0)
    raw_folder, series_folder = folder / "raw", folder / "series"
    raw_folder.mkdir()
    place = lay_out(store, manifest, raw_folder)
    scan = open_scan(manifest, place)
    recipe = recipe_of(manifest, library, scan, other)
    given = (
        scan,
        recipe,
        path.Reference(),
        Study(**dict(manifest.study)),
        path.Destination(series_folder, "ct", committed),
    )
    shelf = shelf_of(store, manifest, place, scan, recipe) if other is None else None
    made = path.travel(given, path.Series, watch=watch, shelf=shelf, engine=engine)
    assessment = made.the(Assessment)
    if shelf is not None:
        early(shelf.hits, shelf.misses)
    (series_folder / _ASSESSMENT).write_text(json.dumps(told_of(made), ensure_ascii=False), "utf-8")
    write_page(series_folder / _PAGE, "A judged series", f"scan {manifest.scan}", [_column(made)])
    watch("store", 0.0)
    prefix_of = series_prefix if other is None else remade_prefix
    return keep(store, prefix_of(manifest.site, manifest.scan), series_folder), assessment.verdict


def told_of(made: path.Journey) -> dict[str, Any]:
    """Figures, curves and verdict, the passport's tasks, and the way the image was made: all that a page tells of it.

    Of the patient nothing but what bears on the dose: part of the body and position.
    """
    projections, recipe, volume = made.the(Projections), made.the(Recipe), made.the(Volume)
    assessment, acquisition = made.the(Assessment), projections.acquisition
    method = recon.complete(recipe.method)
    provenance = dicom.Provenance.of(projections, recipe, assessment, method=method)
    told = assessment.as_dict()
    told["curves"].append(_transfer(projections, recipe).as_dict())
    return {
        **told,
        "detections": [one.as_dict() for one in made.the(Passport).detections],
        "provenance": {
            "scan": projections.scan_id,
            "software": provenance.software_version,
            "recipe": recipe.as_dict(),
            "recipe_digest": recipe.digest(),
            "method": method.as_dict(),
            "engine": projector.named(made.engine),
            "corrections": [{"name": one.name, "settings": dict(one.settings)} for one in projections.history],
            "derivation": provenance.derivation(volume),
            "views": projections.geometry.shape[0],
        },
        "acquisition": {name: getattr(acquisition, name) for name in _TOLD},
        "grid": {"shape": list(volume.grid.shape), "spacing_mm": list(volume.grid.spacing_mm)},
    }


def _transfer(projections: Projections, recipe: Recipe) -> Curve:
    """The task transfer function of the recipe's kernel at the isocentre, by theory: exact for analytic methods."""
    column_mm = recon.native_column_mm(projections.geometry)
    frequency = np.linspace(0.0, 0.5 / column_mm, 129)
    values = recon.kernel(recipe.kernel).ttf(frequency, column_mm, column_mm)
    settings = (("column_mm", column_mm), ("kernel", recipe.kernel), ("origin", "theory"))
    return Curve("ttf", tuple(map(float, frequency)), tuple(map(float, values)), "1/mm", "", settings)


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
