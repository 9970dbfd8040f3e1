"""Spans of requests, where OpenTelemetry's SDK is set up."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")
pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

# In a process of its own: a tracer provider can be set once.
CODE = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from crossrank import CrossEncoder
from crossrank.serve import create_app
from tests.support.serving import serving
with serving(create_app(CrossEncoder(threads=1))) as client:
    above = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    client.post("/v1/rerank", json={"query": "a secret", "documents": ["a secret"]}, headers=above)
    client.post("/v1/rerank", json={"query": "a secret"})
for span in exporter.get_finished_spans():
    print(json.dumps([f"{span.context.trace_id:032x}", dict(span.attributes)]))
"""


def test_a_request_is_a_span_below_the_client_s_with_facts_and_no_text() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "0af7651916cd43dd8448eb211c80319c" in first
    assert '"crossrank.documents": 1' in first
    assert '"crossrank.outcome": "refused"' in second
    assert "secret" not in done.stdout
