"""Volume in patient coordinates → DICOM CT series on disk: one file a slice (CT Image) or one in all (Enhanced CT).

Source: DICOM PS3.3 A.3 (CT Image IOD), C.8.2.1, C.7.6.2 (Image Plane), C.11.2 (VOI LUT). The folder appears whole or
not at all: it is written beside its place and renamed.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from lampyris.dicom import enhanced, header, voxels
from lampyris.dicom.header import Label, put
from lampyris.dicom.ids import SeriesIds, series_ids, uid
from lampyris.dicom.provenance import Map, Provenance
from lampyris.dicom.voxels import Rescale, fine_rescale_of, rescale_of, upright
from lampyris.durable import sync
from lampyris.model import InputError, Progress, StorageError, Study, Volume, silent

Kind: TypeAlias = Literal["ct", "enhanced"]


def write_series(
    volume: Volume,
    folder: Path | str,
    *,
    study: Study,
    provenance: Provenance,
    now: datetime,
    kind: Kind = "ct",
    series_number: int = 1,
    description: str | None = None,
    progress: Progress = silent,
) -> tuple[Path, ...]:
    """Write a volume in patient coordinates as a DICOM CT series and return its files, in order from foot to head.

    HU are stored in steps of 1 HU, 1/mm (RescaleType US, with the unit as a real-world mapping) in a decimal step;
    neither is clipped. Images are re-indexed, never resampled, so that left is on the viewer's right (`upright`).
    UIDs depend on scan, recipe, version, engine, kind, quantity and series number alone. `now` is stamped into the
    files and needs a time zone.

    Raises InputError (wrong frame, NaN, a range that 16 bits do not hold, text that DICOM forbids, a folder that is not
    empty) and StorageError (disk full or read-only); the folder is then as it was.
    """
    if now.tzinfo is None:
        raise InputError("`now` has no time zone: use UTC")
    if kind not in ("ct", "enhanced"):
        raise InputError(f"kind {kind!r} is neither 'ct' nor 'enhanced'")
    folder = Path(folder)
    page = upright(volume)
    rescale = rescale_of(page) if provenance.map is None else fine_rescale_of(page)
    role = f"{provenance.program} {kind} {volume.quantity} {series_number}"
    frame = volume.FrameOfReferenceUID or provenance.acquisition.FrameOfReferenceUID
    ids = series_ids(
        provenance.scan_id, provenance.recipe_digest, role, study=study.StudyInstanceUID, frame_of_reference=frame
    )
    label = Label(series_number, description or provenance.series_description()[:64], now)
    base = header.common(study, provenance, ids, label)
    with appearing_whole(folder) as draft:
        if kind == "ct":
            shared = _ct_shared(base, page, rescale, provenance)
            for number in range(1, page.grid.shape[0] + 1):
                save(_ct_image(shared, page, rescale, ids, number), draft / f"CT_{number:05d}.dcm")
                progress(number / page.grid.shape[0])
        else:
            save(enhanced.dataset(base, page, rescale, provenance, ids), draft / "CT_enhanced.dcm")
            progress(1.0)
        names = sorted(path.name for path in draft.iterdir())
    return tuple(folder / name for name in names)


def write_map(
    volume: Volume, folder: Path | str, about: Map, *, study: Study, provenance: Provenance, now: datetime
) -> tuple[Path, ...]:
    """Write a map about an image, in patient coordinates, as a CT series of secondary images, and return its files.

    Values are stored in the finest of steps 1, 2, 5 · 10ⁿ that hold them, the image's recipe, scan and dose stand in it
    as in the image, and what the values mean in DerivationDescription. Errors as in `write_series`.
    """
    described = f"{about.title} of {provenance.series_description()}"[:64]
    return write_series(
        volume,
        folder,
        study=study,
        provenance=replace(provenance, map=about),
        now=now,
        series_number=about.SeriesNumber,
        description=described,
    )


def _ct_shared(base: Dataset, page: Volume, rescale: Rescale, provenance: Provenance) -> Dataset:
    """What all CT Images of the series have in common beyond `base`."""
    grid, acquisition = page.grid, provenance.acquisition
    shared = Dataset()
    shared.update(base)
    shared.SOPClassUID = CTImageStorage
    told = provenance.map
    shared.ImageType = ["DERIVED", "PRIMARY", "AXIAL"] if told is None else ["DERIVED", "SECONDARY", "AXIAL", told.name]
    shared.AcquisitionNumber = None
    if acquisition.BodyPartExamined not in header.UNPAIRED:
        shared.Laterality = ""  # unknown: absent is for unpaired parts only, PS3.3 C.7.3.1
    _acquisition_time(shared, acquisition.AcquisitionDateTime)
    put(shared, "DerivationDescription", provenance.derivation(page))
    put(shared, "ImageComments", provenance.comments(page))
    put(shared, "ImageOrientationPatient", header.orientation(grid))
    put(shared, "PixelSpacing", list(grid.spacing_mm[1:]))
    put(shared, "SliceThickness", provenance.SliceThickness or grid.spacing_mm[0])
    put(shared, "SpacingBetweenSlices", grid.spacing_mm[0])
    put(shared, "IrradiationEventUID", uid(provenance.scan_id, "irradiation event"))
    _physics(shared, page, provenance)
    put(shared, "RescaleIntercept", rescale.intercept)
    put(shared, "RescaleSlope", rescale.slope)
    shared.RescaleType = "HU" if page.quantity == "HU" else "US"
    if page.quantity != "HU":
        shared.RealWorldValueMappingSequence = voxels.per_mm_mapping(rescale)
    shared.update(voxels.window(page, rescale, whole=told is not None))
    return shared


def _ct_image(shared: Dataset, page: Volume, rescale: Rescale, ids: SeriesIds, number: int) -> Dataset:
    """The CT Image of slice `number`, counted from 1."""
    image = Dataset()
    image.update(shared)
    image.SOPInstanceUID = ids.instance(number)
    put(image, "InstanceNumber", number)
    position = page.grid.position_mm((number - 1, 0, 0))
    put(image, "ImagePositionPatient", position.tolist())
    put(image, "SliceLocation", float(position @ page.grid.axes[0]))
    voxels.put_pixels(image, page, rescale, slice(number - 1, number))
    image.file_meta = header.file_meta(CTImageStorage, image.SOPInstanceUID, str(image.SoftwareVersions))
    return image


def _acquisition_time(image: Dataset, moment: str | None) -> None:
    put(image, "AcquisitionDateTime", moment)
    if moment is not None and len(moment) >= 14:
        put(image, "AcquisitionDate", moment[:8])
        put(image, "AcquisitionTime", moment[8:].split("+")[0].split("-")[0])


def _physics(image: Dataset, page: Volume, provenance: Provenance) -> None:
    """How it was exposed and reconstructed: CT Image Module."""
    acquisition, exposure, dose = provenance.acquisition, provenance.exposure, provenance.dose
    header.put_all(image, acquisition, header.CT_IMAGE_KEYWORDS)
    if acquisition.KVP is None:
        image.KVP = None
    put(image, "DataCollectionCenterPatient", list(acquisition.DataCollectionCenterPatient))
    put(image, "ReconstructionTargetCenterPatient", page.grid.centre_mm.tolist())
    put(image, "ReconstructionDiameter", provenance.ReconstructionDiameter or header.field_of_view_mm(page.grid))
    put(image, "ConvolutionKernel", provenance.kernel)
    put(image, "ReconstructionAlgorithm", provenance.algorithm)
    put(image, "ExposureModulationType", exposure.ExposureModulationType)
    put(image, "XRayTubeCurrent", exposure.XRayTubeCurrentInmA)
    put(image, "ExposureTime", exposure.ExposureTimeInms)
    if exposure.ExposureInmAs is not None:
        put(image, "Exposure", exposure.ExposureInmAs)
        put(image, "ExposureInuAs", 1000 * exposure.ExposureInmAs)
    put(image, "CTDIvol", dose.CTDIvol if dose.CTDIvol is not None else acquisition.CTDIvol)
    if phantom := header.ctdi_phantom(acquisition.CTDIPhantomDiameter):
        image.CTDIPhantomTypeCodeSequence = phantom
    if dose.WaterEquivalentDiameter is not None:
        put(image, "WaterEquivalentDiameter", dose.WaterEquivalentDiameter)
        image.WaterEquivalentDiameterCalculationMethodCodeSequence = header.wed_method()


@contextlib.contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its final name only when everything is on disk, and vanishes on any failure."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError("the folder for the series is not empty: choose another, nothing is overwritten")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
        draft.mkdir()
    except OSError as error:
        raise _storage(error) from None
    try:
        yield draft
        sync(draft)
        draft.rename(folder)
        sync(folder.parent)
    except OSError as error:
        raise _storage(error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _storage(error: OSError) -> StorageError:
    """The system's reason without the path: folders are often named after patients."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return StorageError(f"the series could not be written ({reason}): disk full, read-only, or no permission?")


def save(image: Dataset, path: Path) -> None:
    """Write one new file and see it onto the disk."""
    with path.open("xb") as file:
        pydicom.dcmwrite(file, image, enforce_file_format=True)
        file.flush()
        os.fsync(file.fileno())
