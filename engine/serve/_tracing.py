"""Traces by OpenTelemetry, where it is installed: a span for each request, below the one that the client names.

Who sets up its SDK, as ``opentelemetry-instrument crossrank serve`` does, decides where they go.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

try:
    from opentelemetry import propagate, trace
except ImportError:
    _TRACING = False
else:
    _TRACING = True

Tell = Callable[[Mapping[str, Any]], None]


_NO_SPAN = nullcontext[Tell](lambda facts: None)


def request_span(headers: Mapping[str, str]) -> AbstractContextManager[Tell]:
    """A span around a request; what it gives takes facts about it, none of which is a text."""
    if not _TRACING or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody has set it up
        return _NO_SPAN
    return _span(headers)


@contextmanager
def _span(headers: Mapping[str, str]) -> Iterator[Tell]:
    tracer = trace.get_tracer("crossrank.serve")
    above = propagate.extract(headers)
    with tracer.start_as_current_span("rerank", above, trace.SpanKind.SERVER) as span:
        yield lambda facts: span.set_attributes({f"crossrank.{name}": value for name, value in facts.items()})
