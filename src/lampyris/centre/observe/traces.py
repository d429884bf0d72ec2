"""What happened to a scan, and when → spans of one trace, whose id is the scan's; nothing unless it is asked for.

The span of the request that opened the scan is the root; every process of the centre knows its id without being told,
because it is made of the site and the scan. Spans hold ids, states and codes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lampyris.model import MachineError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_ROOT: ContextVar[tuple[int, int] | None] = ContextVar("root", default=None)
"""Trace and span id that the next span gets; set while a root is made, and nowhere else."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A scan, as a trace names it."""

    site: str
    scan: str

    @property
    def ids(self) -> tuple[int, int]:
        """Trace and root span: 128 and 64 bits."""
        digest = hashlib.sha256(f"{self.site}/{self.scan}".encode()).digest()
        return int(self.scan, 16), int.from_bytes(digest[:8], "big")


class Traces:
    """Spans of scans. Without an exporter every call does nothing."""

    def __init__(self, exporter: "SpanExporter | None" = None, service: str = "") -> None:
        self._provider = None if exporter is None else _provider(exporter, service)
        self._tracer = None if self._provider is None else self._provider.get_tracer("lampyris")

    def span(
        self,
        of: Traced,
        name: str,
        time_ns: tuple[int, int],
        *,
        root: bool = False,
        under: object = None,
        told: Mapping[str, str | int | float | None] | None = None,
    ) -> object:
        """Tell of something that lasted from … to, in nanoseconds of the epoch; what others may lie `under`."""
        if self._tracer is None:
            return None
        attributes = {
            "lampyris.site": of.site,
            **{key: value for key, value in (told or {}).items() if value is not None},
        }
        with _rooted(of if root else None):
            context = _under(under) if root or under is not None else _parent(of)
            span = self._tracer.start_span(name, context=context, attributes=attributes, start_time=time_ns[0])
        span.end(time_ns[1])
        return span

    def close(self) -> None:
        """Send what was not sent yet, for some seconds at most."""
        if self._provider is not None:
            self._provider.shutdown()


def traces_of(endpoint: str | None, service: str) -> Traces:
    """Traces that go to an OTLP collector at this URL; none without. Raises MachineError where the extra is missing."""
    if endpoint is None:
        return Traces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise MachineError(
            f"traces are to go to {endpoint}, and what sends them is not installed: pip install 'lampyris[otel]'"
        ) from None
    return Traces(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"), service)


def _provider(exporter: "SpanExporter", service: str) -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    class Ids(RandomIdGenerator):
        """Random, but for a root."""

        def generate_trace_id(self) -> int:
            given = _ROOT.get()
            return super().generate_trace_id() if given is None else given[0]

        def generate_span_id(self) -> int:
            given = _ROOT.get()
            return super().generate_span_id() if given is None else given[1]

    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": service}),
        shutdown_on_exit=False,
        id_generator=Ids(),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@contextmanager
def _rooted(of: Traced | None) -> Iterator[None]:
    token = _ROOT.set(None if of is None else of.ids)
    try:
        yield
    finally:
        _ROOT.reset(token)


def _parent(of: Traced) -> Any:
    """The context of a scan's root, which another process has made."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    trace, span = of.ids
    return _under(
        NonRecordingSpan(SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    )


def _under(span: Any) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    return Context() if span is None else set_span_in_context(span, Context())
