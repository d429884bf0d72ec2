"""A lopsided volume, a full provenance, a patient with a Chinese name, and series as other makers write them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_of_others import SECRET, foreign_image
from pydicom.dataset import Dataset

from lampyris.dicom import Dose, Exposure, Provenance
from lampyris.model import Acquisition, Applied, Grid, Recipe, Step, Study, Volume


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 11, 21, 8, 30, 15, tzinfo=UTC)


@pytest.fixture
def patient() -> Study:
    return Study(
        PatientName=SECRET,
        PatientID="G-4711",
        PatientSex="F",
        PatientBirthDate="19580203",
        StudyDate="20261120",
        StudyTime="101500",
        StudyDescription="胸部低剂量",
        AccessionNumber="A1",
        InstitutionName="县医院",
    )


@pytest.fixture
def recipe() -> Recipe:
    return Recipe("routine", "1.0", "soft tissue", (Step.of("dark_air"), Step.of("log")), Step.of("wfbp"), "body")


@pytest.fixture
def acquisition() -> Acquisition:
    return Acquisition(
        PatientPosition="HFS",
        DataCollectionCenterPatient=(-3.0, 11.0, 250.0),
        Manufacturer="Testscan",
        ManufacturerModelName="T1",
        DeviceSerialNumber="S1",
        StationName="CT3",
        ProtocolName="Chest",
        BodyPartExamined="CHEST",
        AcquisitionDateTime="20261120101112.5",
        AcquisitionType="SPIRAL",
        KVP=120.0,
        RevolutionTime=0.5,
        SpiralPitchFactor=1.2,
        TableFeedPerRotation=48.0,
        SingleCollimationWidth=0.625,
        TotalCollimationWidth=40.0,
        DataCollectionDiameter=500.0,
        GantryDetectorTilt=0.0,
        FilterType="BODY",
        CTDIvol=0.32,
        CTDIPhantomDiameter=320.0,
        dose_fraction=0.1,
    )


@pytest.fixture
def provenance(recipe: Recipe, acquisition: Acquisition) -> Provenance:
    return Provenance(
        scan_id="5f" * 32,
        acquisition=acquisition,
        recipe=recipe,
        history=(Applied.of("dark_air"), Applied.of("log")),
        exposure=Exposure(80.0, 500.0, 40.25, "NONE"),
        dose=Dose(0.33, 12.5, 0.45, 301.0),
        SliceThickness=2.5,
        ReconstructionAngle=300.0,
        verdict="look",
        reasons=("noise above 40 HU",),
    )


@pytest.fixture
def gantry_volume(rng: np.random.Generator) -> Volume:
    """HU noise on 4 × 6 × 9 voxels; no two sizes, spacings or offsets alike."""
    values = rng.normal(20, 300, (4, 6, 9)).astype(np.float32)
    return Volume(values, Grid.centred((4, 6, 9), (2.5, 0.75, 0.5), (7.0, -31.0, 4.0)), "HU")


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., Path]:
    """Write images into a new folder under names that say nothing about their order; returns the folder."""

    def write(images: list[Dataset], name: str = "foreign") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for count, image in enumerate(images):
            pydicom.dcmwrite(folder / f"{SECRET[:6]}_{(count * 7) % 11}_{count}", image, enforce_file_format=True)
        return folder

    return write


@pytest.fixture
def ladder(rng: np.random.Generator) -> Callable[..., list[Dataset]]:
    """Images at the given heights, numbered from the head down, of soft-tissue noise."""

    def build(heights: list[float], **changes: object) -> list[Dataset]:
        numbers = {height: number for number, height in enumerate(sorted(set(heights), reverse=True), start=1)}
        return [
            foreign_image(rng.integers(-100, 100, (6, 9), np.int16), (-12.5, 40.0, z), numbers[z], **changes)
            for z in heights
        ]

    return build
