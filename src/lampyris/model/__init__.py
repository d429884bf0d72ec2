"""The nouns of Lampyris: frozen dataclasses over numpy arrays, checked once, on creation."""

from lampyris.model.arrays import Above, Bool, Counts, Float32, Float64, Progress, Shelf, silent
from lampyris.model.assessment import Assessment, Curve, Detection, Figure, Origin, Passport
from lampyris.model.errors import (
    CalibrationError,
    CardFullError,
    DivergenceError,
    EngineUnavailable,
    FormatError,
    GeometryError,
    InputError,
    LampyrisError,
    MachineError,
    ProgramError,
    RecipeError,
    SeriesError,
    StorageError,
)
from lampyris.model.geometry import FocalSpotShift, Gantry, Geometry
from lampyris.model.orbit import Orbit
from lampyris.model.recipe import GridRequest, Limit, Recipe, Step, Verdict
from lampyris.model.scan import Acquisition, Applied, Coding, Noise, Projections, Quanta, RawScan
from lampyris.model.spectrum import Bowtie, Spectrum
from lampyris.model.study import Study
from lampyris.model.volume import PATIENT_POSITIONS, Grid, Volume, patient_axes

__all__ = [
    "PATIENT_POSITIONS", "Above", "Acquisition", "Applied", "Assessment", "Bool", "Bowtie", "CalibrationError",
    "CardFullError", "Coding", "Counts", "Curve", "Detection", "DivergenceError", "EngineUnavailable", "Figure",
    "Float32", "Float64", "FocalSpotShift", "FormatError", "Gantry", "Geometry", "GeometryError", "Grid", "GridRequest",
    "InputError", "LampyrisError", "Limit", "MachineError", "Noise", "Orbit", "Origin", "Passport", "ProgramError",
    "Progress", "Projections", "Quanta", "RawScan", "Recipe", "RecipeError", "SeriesError", "Shelf", "Spectrum", "Step",
    "StorageError", "Study", "Verdict", "Volume", "patient_axes", "silent",
]  # fmt: skip
