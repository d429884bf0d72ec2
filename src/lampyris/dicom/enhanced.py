"""Volume in patient coordinates → one Enhanced CT object whose frames are its slices.

Source: DICOM PS3.3 A.38 (Enhanced CT IOD), C.7.6.16 (functional groups), C.7.6.17 (dimensions), C.8.15 (Enhanced CT).
"""

from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage

from lampyris.dicom import header, voxels
from lampyris.dicom.header import code, item, put
from lampyris.dicom.ids import SeriesIds, uid
from lampyris.dicom.provenance import Provenance
from lampyris.dicom.voxels import Rescale
from lampyris.model import Acquisition, InputError, Volume, patient_axes

_REGIONS = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "ABDOMENPELVIS": ("818982008", "Abdomen and Pelvis"),
    "CHEST": ("816094009", "Chest"),
    "CHESTABDOMEN": ("416550000", "Chest and Abdomen"),
    "CHESTABDPELVIS": ("416775004", "Chest, Abdomen and Pelvis"),
    "HEAD": ("69536005", "Head"),
    "HEADNECK": ("774007", "Head and Neck"),
    "HEART": ("80891009", "Heart"),
    "LUNG": ("39607008", "Lung"),
    "NECK": ("45048000", "Neck"),
    "NECKCHEST": ("417437006", "Neck and Chest"),
    "NECKCHESTABDPELV": ("416319003", "Neck, Chest, Abdomen and Pelvis"),
    "PELVIS": ("816092008", "Pelvis"),
    "PHANTOM": ("706342009", "Phantom"),
    "SPINE": ("421060004", "Spine"),
}
_WIDEST_REGION = ("38266002", "Entire body")
"""DICOM demands a region; where BodyPartExamined is not known, only this one is certainly true."""

_FRAME_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
_CONTENT = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
}
_STACK = "1"


def dataset(base: Dataset, page: Volume, rescale: Rescale, provenance: Provenance, ids: SeriesIds) -> Dataset:
    """The Enhanced CT object of an upright volume; `base` holds what every image of the series shares.

    InputError above 4 GiB, the most that one DICOM element holds.
    """
    if 2 * page.values.size >= 2**32 - 2:
        raise InputError(f"{page.grid.shape} voxels do not fit into one Enhanced CT object of 4 GiB: write kind 'ct'")
    image = Dataset()
    image.update(base)
    image.SOPClassUID = EnhancedCTImageStorage
    image.SOPInstanceUID = ids.instance(1)
    image.ImageType = _FRAME_TYPE
    for keyword, value in _CONTENT.items():
        put(image, keyword, value)
    put(image, "InstanceNumber", 1)
    put(image, "DeviceSerialNumber", f"lampyris-{provenance.software_version}")
    put(image, "ContentQualification", "RESEARCH")
    put(image, "DerivationDescription", provenance.derivation(page))
    put(image, "ImageComments", provenance.comments(page))
    put(image, "AcquisitionDateTime", provenance.acquisition.AcquisitionDateTime)
    image.PresentationLUTShape = "IDENTITY"
    image.AcquisitionContextSequence = Sequence()
    image.NumberOfFrames = page.grid.shape[0]
    _dimensions(image, ids)
    shared = _shared(page, rescale, provenance)
    _put_macros(image, shared, page, provenance)
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = [_frame(page, index, provenance.acquisition) for index in range(page.grid.shape[0])]
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    voxels.put_pixels(image, page, rescale, slice(None))
    image.file_meta = header.file_meta(EnhancedCTImageStorage, image.SOPInstanceUID, provenance.software_version)
    return image


def _dimensions(image: Dataset, ids: SeriesIds) -> None:
    organization = item({"DimensionOrganizationUID": ids.dimension_organization})
    image.DimensionOrganizationSequence = Sequence([organization])
    image.DimensionOrganizationType = "3D"
    indices = []
    for keyword in ("StackID", "InStackPositionNumber"):
        index = Dataset()
        index.DimensionIndexPointer = tag_for_keyword(keyword)
        index.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
        index.DimensionOrganizationUID = ids.dimension_organization
        index.DimensionDescriptionLabel = keyword
        indices.append(index)
    image.DimensionIndexSequence = Sequence(indices)


def _frame(page: Volume, index: int, acquisition: Acquisition) -> Dataset:
    """Which slice this is, where it lies in the patient, and where along the table's way."""
    content = item({"StackID": _STACK})
    content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [1, index + 1]
    frame = Dataset()
    frame.FrameContentSequence = Sequence([content])
    place = item({"ImagePositionPatient": page.grid.position_mm((index, 0, 0)).tolist()})
    frame.PlanePositionSequence = Sequence([place])
    centre = page.grid.slab(index, index + 1).centre_mm
    origin = np.asarray(acquisition.DataCollectionCenterPatient)
    gantry = patient_axes(acquisition.PatientPosition).T @ (centre - origin)
    position = {
        "TablePosition": float(gantry[1]),
        "DataCollectionCenterPatient": origin.tolist(),
        "ReconstructionTargetCenterPatient": centre.tolist(),
    }
    frame.CTPositionSequence = Sequence([item(position)])
    return frame


def _shared(page: Volume, rescale: Rescale, provenance: Provenance) -> Dataset:
    """What all frames have in common, one macro after another."""
    grid = page.grid
    groups: dict[str, dict[str, Any]] = {
        "PixelMeasuresSequence": {
            "PixelSpacing": list(grid.spacing_mm[1:]),
            "SliceThickness": provenance.SliceThickness or grid.spacing_mm[0],
            "SpacingBetweenSlices": grid.spacing_mm[0],
        },
        "PlaneOrientationSequence": {"ImageOrientationPatient": header.orientation(grid)},
        "FrameAnatomySequence": {
            "FrameLaterality": "U",
            "AnatomicRegionSequence": code(*region(provenance.acquisition.BodyPartExamined)),
        },
        "CTImageFrameTypeSequence": {"FrameType": _FRAME_TYPE, **_CONTENT},
        "PixelValueTransformationSequence": {
            "RescaleIntercept": rescale.intercept,
            "RescaleSlope": rescale.slope,
            "RescaleType": "HU" if page.quantity == "HU" else "US",
        },
    }
    shared = Dataset()
    for keyword, values in groups.items():
        setattr(shared, keyword, Sequence([item(values)]))
    event = item({"IrradiationEventUID": uid(provenance.scan_id, "irradiation event")})
    shared.IrradiationEventIdentificationSequence = Sequence([event])
    shared.FrameVOILUTSequence = Sequence([voxels.window(page, rescale)])
    if page.quantity != "HU":
        shared.RealWorldValueMappingSequence = voxels.per_mm_mapping(rescale)
    return shared


def _macros(page: Volume, provenance: Provenance) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    """How the frames were exposed and reconstructed: macro → (what is known, what the macro must hold)."""
    acquisition, exposure, dose = provenance.acquisition, provenance.exposure, provenance.dose
    scan = _fields(acquisition, "AcquisitionType") | {"ConstantVolumeFlag": "NO", "FluoroscopyFlag": "NO"}
    gantry = ("SingleCollimationWidth", "TotalCollimationWidth", "GantryDetectorTilt", "DataCollectionDiameter")
    feed = ("TableFeedPerRotation", "SpiralPitchFactor")
    beam = ("XRayTubeCurrentInmA", "ExposureTimeInms", "ExposureInmAs", "ExposureModulationType")
    wed = dose.WaterEquivalentDiameter
    exposed = _fields(exposure, *beam) | {
        "CTDIvol": dose.CTDIvol if dose.CTDIvol is not None else acquisition.CTDIvol,
        "CTDIPhantomTypeCodeSequence": header.ctdi_phantom(acquisition.CTDIPhantomDiameter),
        "WaterEquivalentDiameter": wed,
        "WaterEquivalentDiameterCalculationMethodCodeSequence": None if wed is None else header.wed_method(),
    }
    return {
        "CTAcquisitionTypeSequence": (scan if acquisition.AcquisitionType else {}, ("AcquisitionType",)),
        "CTAcquisitionDetailsSequence": (_fields(acquisition, "RevolutionTime", *gantry), (*gantry, "TableHeight")),
        "CTTableDynamicsSequence": (_fields(acquisition, *feed), feed),
        "CTReconstructionSequence": _reconstruction(page, provenance),
        "CTExposureSequence": (exposed, beam),
        "CTXRayDetailsSequence": (
            _fields(acquisition, "KVP", "FilterType"),
            ("KVP", "FilterType", "FocalSpots", "FilterMaterial"),
        ),
    }


def _reconstruction(page: Volume, provenance: Provenance) -> tuple[dict[str, Any], tuple[str, ...]]:
    grid = page.grid
    sides = [grid.shape[2] * grid.spacing_mm[2], grid.shape[1] * grid.spacing_mm[1]]
    known = {
        "ReconstructionAlgorithm": provenance.algorithm,
        "ConvolutionKernel": provenance.kernel,
        "ConvolutionKernelGroup": provenance.kernel_group,
        "ReconstructionDiameter": provenance.ReconstructionDiameter,
        "ReconstructionFieldOfView": None if provenance.ReconstructionDiameter else sides,
        "ReconstructionPixelSpacing": list(grid.spacing_mm[1:]),
        "ReconstructionAngle": provenance.ReconstructionAngle,
        "ImageFilter": "NONE",
    }
    return known, ("ReconstructionAlgorithm", "ConvolutionKernel", "ConvolutionKernelGroup", "ReconstructionAngle")


def _put_macros(image: Dataset, shared: Dataset, page: Volume, provenance: Provenance) -> None:
    """Each macro whole, in the shared groups; or, where a part of it is not known, what is known at the top level.

    A macro that lacks a conditional attribute is allowed in a derived image, but validators and readers trip over it;
    at the top level the fact is a standard extension and is found under its keyword (decision 0072).
    """
    for keyword, (known, needed) in _macros(page, provenance).items():
        values = item(known)
        if all(name in values for name in needed):
            setattr(shared, keyword, Sequence([values]))
        else:
            image.update(values)


def _fields(source: object, *keywords: str) -> dict[str, Any]:
    return {keyword: getattr(source, keyword) for keyword in keywords}


def region(BodyPartExamined: str | None) -> tuple[str, str, str]:
    """Code, scheme and meaning of what was scanned; the entire body where that is not known (CID 4030)."""
    value, meaning = _REGIONS.get(BodyPartExamined or "", _WIDEST_REGION)
    return value, "SCT", meaning
