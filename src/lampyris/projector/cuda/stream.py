"""Views on the host and the spans that are wanted of them → each span on the card, the next on its way meanwhile.

Two places on the card and two in pinned memory take turns. While the card works on one span, the next is read (and
made, where views are made when they are asked for) into pinned memory by another thread, and goes up in a stream of its
own. What it shares with the span before is copied on the card: every view goes up once.
"""

import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lampyris.projector.cuda.card import SIMULATED, xp


def pieces(source: Any, spans: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """source[begin:end] of every span, float32 on the card; good until the next is asked for.

    `source` (views, rows, columns) gives arrays on the host when it is sliced.
    """
    if not spans:
        return
    fresh, lane = _fresh(spans), _Lane()
    shape = (max(end - begin for begin, end in spans), *source.shape[1:])
    places = [_Place(shape, lane), _Place(shape, lane)]
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(places[0].read, source, fresh[0])
        for number, span in enumerate(spans):
            here, before = places[number % 2], places[1 - number % 2]
            waiting.result()
            here.send(span, fresh[number])
            if number + 1 < len(spans):
                waiting = reader.submit(before.read, source, fresh[number + 1])
            yield here.completed(before)


def _fresh(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of each span was not in the one before, where that is its end or its beginning; else all of it."""
    found, (first, last) = [], (0, 0)
    for begin, end in spans:
        if first <= begin < last <= end:
            found.append((last, end))
        elif begin <= first < end <= last:
            found.append((begin, first))
        else:
            found.append((begin, end))
        first, last = begin, end
    return found


class _Lane:
    """The stream of what goes up, beside the one in which the card works; in the simulator all is done at once."""

    def __init__(self) -> None:
        self.cupy = None if SIMULATED else importlib.import_module("cupy")
        self.stream = None if self.cupy is None else self.cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Any:
        return None if self.cupy is None else self.cupy.cuda.Event(disable_timing=True)

    def pinned(self, shape: tuple[int, ...]) -> Any:
        if self.cupy is None:
            return np.empty(shape, np.float32)
        return importlib.import_module("cupyx").empty_pinned(shape, dtype=np.float32)


class _Place:
    """Room for one span in pinned memory and on the card.

    `sent` is passed when the last copy out of pinned memory is through, `free` when the card has read for the last time
    what is to be written over.
    """

    def __init__(self, shape: tuple[int, ...], lane: _Lane) -> None:
        self.lane, self.waiting, self.there = lane, lane.pinned(shape), xp().empty(shape, dtype=np.float32)
        self.sent, self.free = lane.event(), lane.event()
        self.span, self.new = (0, 0), (0, 0)

    def read(self, source: Any, new: tuple[int, int]) -> None:
        """Take views of the source into pinned memory."""
        if self.sent is not None:
            self.sent.synchronize()
        np.copyto(self.waiting[: new[1] - new[0]], source[new[0] : new[1]])

    def send(self, span: tuple[int, int], new: tuple[int, int]) -> None:
        """Begin to copy up what was read, to where it lies in the span."""
        self.span, self.new = span, new
        target = self.there[new[0] - span[0] : new[1] - span[0]]
        if self.lane.stream is None:
            target[...] = self.waiting[: len(target)]
            return
        self.lane.stream.wait_event(self.free)
        target.set(self.waiting[: len(target)], stream=self.lane.stream)
        self.sent.record(self.lane.stream)

    def completed(self, before: "_Place") -> Any:
        """The span, with what the one before had of it already; whoever works on it next waits for all of it."""
        for begin, end in ((self.span[0], self.new[0]), (self.new[1], self.span[1])):
            kept = before.there[begin - before.span[0] : end - before.span[0]]
            self.there[begin - self.span[0] : end - self.span[0]] = kept
        if self.lane.cupy is not None:
            working = self.lane.cupy.cuda.get_current_stream()
            before.free.record(working)
            working.wait_event(self.sent)
        return self.there[: self.span[1] - self.span[0]]
