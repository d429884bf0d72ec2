"""A card that is full: less at a time, then a refusal with the numbers, and never another result.

What a card refuses is planted here; no card is needed for the rules.
"""

import weakref

import numpy as np
import pytest

from lampyris.model import CardFullError
from lampyris.projector.cuda import memory
from lampyris.projector.cuda.card import Card


@pytest.fixture(autouse=True)
def _free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "card", lambda: Card("small", (9, 0), 1 << 30, 3 << 20, True))
    monkeypatch.setattr(memory, "SIMULATED", True)


def done(total: int, room: int, most: int) -> tuple[list[int], list[int], list[int]]:
    parts: list[int] = []
    tried: list[int] = []

    def work(part: slice) -> None:
        tried.append(part.stop - part.start)
        if tried[-1] > room:
            raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        parts.extend(range(part.start, part.stop))

    gave = list(memory.in_parts(total, work, most=most, what="views"))
    return parts, tried, gave


def test_a_part_too_large_is_done_again_half_as_large_and_none_is_left_out_or_done_twice() -> None:
    parts, tried, gave = done(23, 6, 20)
    assert parts == list(range(23))
    assert tried == [20, 10, 5, 5, 5, 5, 3]
    assert gave == [5, 10, 15, 20, 23]


def test_where_not_even_one_fits_it_is_refused_with_the_numbers() -> None:
    with pytest.raises(CardFullError, match="views, 1 of 23 at a time: the card is full, 3 MiB of 1024 MiB are free"):
        done(23, 0, 20)


def test_it_is_not_tried_for_ever() -> None:
    tried: list[int] = []

    def full(part: slice) -> None:
        tried.append(part.stop - part.start)
        raise MemoryError

    with pytest.raises(CardFullError, match="slabs, 15 of 1000 at a time"):
        list(memory.in_parts(1000, full, most=1000, what="slabs"))
    assert tried == [1000, 500, 250, 125, 62, 31, 15]


def test_another_error_is_left_as_it_is() -> None:
    def wrong(part: slice) -> None:
        raise RuntimeError("[700] Call to cuMemcpyDtoH results in CUDA_ERROR_ILLEGAL_ADDRESS")

    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):
        list(memory.in_parts(3, wrong, most=3, what="views"))


@pytest.mark.parametrize(
    "words",
    [
        "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY",
        "cudaErrorMemoryAllocation: out of memory",
        "CUFFT_ALLOC_FAILED",
        "Failed to allocate memory for requested buffer of size 4096",
    ],
)
def test_every_library_s_word_for_it_is_known(words: str) -> None:
    with pytest.raises(CardFullError), memory.refused("an image"):
        raise RuntimeError(words)


def test_what_a_refused_part_held_is_free_before_the_next_is_tried() -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def work(part: slice) -> None:
        assert all(one() is None for one in held)
        kept = np.zeros(part.stop - part.start)
        held.append(weakref.ref(kept))
        if len(kept) > 2:
            raise MemoryError
        del kept

    assert list(memory.in_parts(5, work, most=5, what="views")) == [2, 4, 5]
