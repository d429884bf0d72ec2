"""What went wrong → who can put it right: the sender, the operator, or us.

The tree is the retry policy too: `InputError` is never retried, `MachineError` may be, `ProgramError` is ours
to mend. Every class has a stable `code` for machines and an `exit_code` for the command line.
"""

from typing import ClassVar


class LampyrisError(Exception):
    """Root of every error that Lampyris raises on purpose."""

    code: ClassVar[str] = "LAMPYRIS"
    exit_code: ClassVar[int] = 70
    retry: ClassVar[bool] = False


class InputError(LampyrisError):
    """The sender can put it right: the data or the request are wrong. Never retried."""

    code = "INPUT"
    exit_code = 65


class FormatError(InputError):
    """A file is truncated, tampered with, or not in the format that it claims."""

    code = "INPUT_FORMAT"


class GeometryError(InputError):
    """The geometry of a scan is impossible, or not one that the chosen method can take."""

    code = "INPUT_GEOMETRY"


class CalibrationError(InputError):
    """A dark, air or cell calibration is missing or belongs to another scan."""

    code = "INPUT_CALIBRATION"


class SeriesError(InputError):
    """A DICOM folder does not hold exactly one complete CT series."""

    code = "INPUT_SERIES"


class RecipeError(InputError):
    """A recipe asks for something unknown or contradictory."""

    code = "INPUT_RECIPE"


class DivergenceError(RecipeError):
    """An iterative method runs away from the image instead of towards it; the message tells the course in numbers."""

    code = "INPUT_DIVERGENCE"


class MachineError(LampyrisError):
    """The operator can put it right: disk, memory, device, driver. May be retried."""

    code = "MACHINE"
    exit_code = 69
    retry = True


class StorageError(MachineError):
    """The disk is full, read-only or failing."""

    code = "MACHINE_STORAGE"


class EngineUnavailable(MachineError):  # noqa: N818 - the design's name: it is a state of the machine
    """The engine asked for by name cannot run here; never another one in its place."""

    code = "MACHINE_ENGINE"
    retry = False


class CardFullError(MachineError):
    """The card has not the memory for the work, however little of it is done at a time; the message has the numbers."""

    code = "MACHINE_CARD_FULL"


class ProgramError(LampyrisError):
    """We must put it right: an invariant of Lampyris was broken."""

    code = "PROGRAM"
