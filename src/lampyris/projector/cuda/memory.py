"""Work and how much of it at a time → the work done in parts that the card holds, or its refusal with the numbers.

How much memory a card has left is known when it is asked (`card.room`) and not a moment later: other programs use it
too. So a part that does not fit after all is done again, half as large. Numbers do not depend on it: a part either is
done whole or leaves nothing behind.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba import cuda

from lampyris.model import CardFullError
from lampyris.projector.cuda.card import SIMULATED, card

HALVINGS = 6
"""How often a part may be halved before the work is refused: to a sixty-fourth of what should have fitted."""
_TOLD = ("CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "CUFFT_ALLOC_FAILED", "Failed to allocate memory")
"""What numba-cuda, CuPy, cuFFT and onnxruntime call it."""


def in_parts(total: int, work: Callable[[slice], object], *, most: int, what: str) -> Iterator[int]:
    """Do `work(part)` for every part of range(total) in turn, `most` at a time; gives how many are done after each.

    A part for which the card is full is done again, half as large, and so is all that follows. `work` must therefore
    take all memory that it needs before it changes anything that outlasts it. `what` names the whole for CardFullError,
    which is raised where halving does not help.
    """
    first, size, halvings = 0, min(most, total), 0
    while first < total:
        stop = min(first + size, total)
        try:
            with refused(f"{what}, {stop - first} of {total} at a time"):
                work(slice(first, stop))
        except CardFullError:
            if stop - first == 1 or halvings == HALVINGS:
                raise
            full = True
        else:
            full = False
        if full:  # here no traceback holds the part's arrays any more
            release()
            size, halvings = (stop - first) // 2, halvings + 1
        else:
            first = stop
            yield first


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Where the card is full inside, in whatever words a library says it, raise CardFullError with the numbers."""
    try:
        yield
    except CardFullError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        here = card()
        raise CardFullError(
            f"{what}: the card is full, {_mib(here.free_bytes)} of {_mib(here.memory_bytes)} are free: does another"
            " program hold the rest? a smaller image takes less"
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether an error of NumPy, numba-cuda, CuPy, cuFFT or onnxruntime says that memory was not to be had."""
    return isinstance(error, MemoryError) or any(told in str(error) for told in _TOLD)


def release() -> None:
    """Give back to the driver what is not used any more and only kept for the next who asks."""
    gc.collect()
    if SIMULATED:
        return
    cuda.current_context().deallocations.clear()
    cupy = sys.modules.get("cupy")  # where nobody loaded it, it keeps nothing
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
