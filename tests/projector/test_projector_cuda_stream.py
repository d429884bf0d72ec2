"""Views on their way to the card: what arrives, how often, and in which order a real card may do what it is told."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lampyris.projector.cuda import stream

VIEWS = np.arange(60 * 2 * 3, dtype=np.float32).reshape(60, 2, 3)
FORWARD = [(0, 13), (9, 24), (24, 31), (29, 44), (44, 60)]
BACKWARD = [(47, 60), (33, 50), (33, 34), (10, 33), (0, 12)]


class Card:
    """Streams that do what they were told as late as events let them, the one that copies first or last."""

    def __init__(self, hasty: bool) -> None:
        self.hasty, self.queues = hasty, {"work": [], "copy": []}  # type: ignore[var-annotated]

    def do(self, queue: str, work: Callable[[], bool]) -> None:
        self.queues[queue].append(work)

    def run(self, until: Callable[[], bool]) -> None:
        order = ("copy", "work") if self.hasty else ("work", "copy")
        while not until():
            for name in order:
                if self.queues[name] and self.queues[name][0]():
                    self.queues[name].pop(0)
                    break
            else:
                raise AssertionError("two streams wait for each other")


class Event:
    """Passed when the last record of it was; one that was never recorded is."""

    def __init__(self, card: Card) -> None:
        self.card, self.asked, self.passed = card, 0, 0

    def record(self, queue: "Stream") -> None:
        self.asked += 1
        number = self.asked

        def reached() -> bool:
            self.passed = number
            return True

        self.card.do(queue.name, reached)

    def synchronize(self) -> None:
        number = self.asked
        self.card.run(lambda: self.passed >= number)


class Stream:
    def __init__(self, card: Card, name: str) -> None:
        self.card, self.name = card, name

    def wait_event(self, event: Event) -> None:
        number = event.asked
        self.card.do(self.name, lambda: event.passed >= number)


class Array:
    """Memory of the card: what is done to it is done when its stream comes to it."""

    def __init__(self, card: Card, values: Any) -> None:
        self.card, self.values = card, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> "Array":
        return Array(self.card, self.values[part])

    def __setitem__(self, part: slice, other: "Array") -> None:
        self.card.do("work", lambda: np.copyto(self.values[part], other.values) is None)

    def set(self, pinned: Any, stream: Stream) -> None:
        self.card.do(stream.name, lambda: np.copyto(self.values, pinned) is None)  # pinned is read when it is copied


@pytest.fixture(params=["copies first", "works first"])
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Card:
    """The module as it is on a card, with a card that is played."""
    made = Card(request.param == "copies first")
    cuda = SimpleNamespace(
        Stream=lambda non_blocking: Stream(made, "copy"), Event=lambda disable_timing: Event(made),
        get_current_stream=lambda: Stream(made, "work"),
    )  # fmt: skip
    modules = {"cupy": SimpleNamespace(cuda=cuda), "cupyx": SimpleNamespace(empty_pinned=empty)}
    monkeypatch.setattr(stream, "SIMULATED", False)
    monkeypatch.setattr(stream, "importlib", SimpleNamespace(import_module=modules.__getitem__))
    monkeypatch.setattr(
        stream, "xp", lambda: SimpleNamespace(empty=lambda shape, dtype: Array(made, empty(shape, dtype)))
    )
    return made


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.full(shape, np.nan, dtype)


class Scan:
    """Views that are counted as they are asked for."""

    shape = VIEWS.shape

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __getitem__(self, part: slice) -> Any:
        self.asked.append((part.start, part.stop))
        return VIEWS[part]


@pytest.mark.parametrize("spans", [FORWARD, BACKWARD, [(0, 60)], [(5, 9), (5, 9)], [(0, 8), (20, 31), (2, 6)]])
def test_every_span_arrives_whole_whatever_the_card_does_first(spans: list[tuple[int, int]], card: Card) -> None:
    """The work on a span looks at it when the card comes to it, long after the next span was sent for."""
    seen: list[Any] = []

    def look(given: Array) -> None:
        card.do("work", lambda: seen.append(given.values.copy()) is None)

    for given in stream.pieces(Scan(), spans):
        look(given)
    card.run(lambda: not any(card.queues.values()))
    assert len(seen) == len(spans)
    for (begin, end), found in zip(spans, seen, strict=True):
        np.testing.assert_array_equal(found, VIEWS[begin:end])


@pytest.mark.parametrize("spans", [FORWARD, BACKWARD])
def test_every_view_goes_up_once(spans: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SIMULATED", True)
    monkeypatch.setattr(stream, "xp", lambda: np)
    scan = Scan()
    for (begin, end), given in zip(spans, simulated(scan, spans), strict=True):
        np.testing.assert_array_equal(given, VIEWS[begin:end])
    assert sum(stop - start for start, stop in scan.asked) == len(VIEWS)


def simulated(scan: Scan, spans: list[tuple[int, int]]) -> Iterator[Any]:
    return stream.pieces(scan, spans)


def test_nothing_wanted_is_nothing_sent() -> None:
    assert list(stream.pieces(Scan(), [])) == []


def test_what_the_reader_finds_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SIMULATED", True)
    monkeypatch.setattr(stream, "xp", lambda: np)

    class Broken(Scan):
        def __getitem__(self, part: slice) -> Any:
            raise OSError("the archive ends")

    with pytest.raises(OSError, match="the archive ends"):
        list(stream.pieces(Broken(), FORWARD))
