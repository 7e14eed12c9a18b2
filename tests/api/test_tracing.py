"""Spans of the stages of a verdict, collected by OpenTelemetry's exporter for tests."""

import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from roadwork_serve.api.tracing import otlp, trace_stages
from roadwork_serve.errors import ConfigError
from tests.api.test_stats import answered, skipped, verdict_of

ENDED_NS = 1_700_000_000_000_000_000
MS = 1_000_000


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def spans(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exported.get_finished_spans()}


def test_each_stage_is_a_span_of_its_measured_length_one_after_the_other(exported: InMemorySpanExporter) -> None:
    answer = verdict_of("a", answered("backbone", compute_ms=20.0), answered("vlm", compute_ms=500.0, tokens=1))
    with trace.get_tracer("serve").start_as_current_span("request"):
        trace_stages(answer, ENDED_NS)
    found = spans(exported)
    first, second, request = found["stage backbone"], found["stage vlm"], found["request"]
    assert (second.end_time, second.start_time) == (ENDED_NS, ENDED_NS - 506 * MS)
    assert (first.end_time, first.start_time) == (second.start_time, ENDED_NS - 532 * MS)
    assert request.context is not None
    assert all(span.parent is not None and span.parent.span_id == request.context.span_id for span in (first, second))
    assert second.attributes is not None and request.attributes is not None
    assert second.attributes["roadwork.compute_ms"] == 500.0 and second.attributes["roadwork.tokens"] == 1
    assert (request.attributes["roadwork.exit.stage"], request.attributes["roadwork.label"]) == ("vlm", "roadwork")


def test_a_stage_that_failed_is_an_error_and_one_that_was_skipped_takes_no_time(exported: InMemorySpanExporter) -> None:
    failed = answered("signs", outcome="failed", detail="it is lost", probability=None)
    with trace.get_tracer("serve").start_as_current_span("request"):
        trace_stages(verdict_of("a", answered("backbone"), failed, skipped("vlm")), ENDED_NS)
    found = spans(exported)
    assert found["stage signs"].status.status_code == StatusCode.ERROR
    assert found["stage vlm"].start_time == found["stage vlm"].end_time == ENDED_NS


def test_without_a_trace_no_span_is_created(exported: InMemorySpanExporter) -> None:
    trace_stages(verdict_of("a", answered("backbone")), ENDED_NS)
    assert not spans(exported)


def test_a_missing_exporter_is_an_error_that_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"roadwork-serve\[tracing\]"):
        otlp("ingress_tracing.json")
