"""Images, truth, labels and spacing as they are handed in → the same, checked once for all tasks."""

import numpy as np

from lampyris.model import Float32, InputError


def checked_seeds(images: object, truth: object, *, least: int = 2) -> tuple[Float32, Float32]:
    """Images (seeds, slices, rows, columns) and their truth (slices, rows, columns) as float32, finite everywhere.

    Raises InputError for other shapes, fewer than `least` seeds, NaN or infinity, and seeds that are copies.
    """
    stack = np.asarray(images, np.float32)
    real = np.asarray(truth, np.float32)
    if stack.ndim != 4 or real.ndim != 3 or stack.shape[1:] != real.shape or not real.size:
        raise InputError(
            f"images are {stack.shape} and the truth {real.shape}, expected (seeds, slices, rows, columns) and the same"
            " without seeds: put the truth on the images' grid first"
        )
    if len(stack) < least:
        raise InputError(f"{len(stack)} seeds, expected at least {least}: noise is what differs between them")
    for name, values in (("images", stack), ("truth", real)):
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise InputError(f"the {name} hold {bad} NaN or infinite values: fill what was never measured")
    if len(stack) > 1 and any(np.array_equal(stack[0], other) for other in stack[1:]):
        raise InputError("two of the seeds are the same image: the noise was realised with one seed twice")
    return stack, real


def checked_spacing(spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Spacing along slices, rows and columns, each above 0."""
    spacing = tuple(float(each) for each in spacing_mm)
    if len(spacing) != 3 or not all(0 < each < np.inf for each in spacing):
        raise InputError(f"spacing is {spacing_mm} mm, expected three values above 0 for slices, rows and columns")
    return spacing[0], spacing[1], spacing[2]
