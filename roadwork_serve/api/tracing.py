"""The way of an item through the cascade, as OpenTelemetry spans beneath the one that Ray Serve opens for the request.

Serve takes a caller's W3C trace context, passes it on to the replica, samples and exports, all by `tracing_config` in
serve_config.yaml; without one, and for requests that are not sampled, nothing is done here.
"""

from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode

from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import StageReport, Verdict

_MS = 1_000_000  # nanoseconds
_PARTS = ("queue", "batch", "compute", "hop")


def trace_stages(verdict: Verdict, ended_ns: int) -> None:
    """Add a span for each stage that was asked, and what came of it all to the span that is open.

    ended_ns: when the verdict was there, epoch nanoseconds. Stages are asked one after the other, so each ends where
    the next begins: from their measured parts their times are told backwards.
    """
    here = trace.get_current_span()
    if not here.is_recording():
        return
    here.set_attributes(
        {
            "roadwork.answer_id": verdict.answer_id,
            "roadwork.media": verdict.media,
            "roadwork.label": verdict.label,
            "roadwork.probability": verdict.probability,
            "roadwork.exit.stage": verdict.exit.stage,
            "roadwork.exit.reason": verdict.exit.reason,
            "roadwork.degraded": verdict.degraded,
            "roadwork.policy": verdict.policy_version,
            "roadwork.profile": verdict.profile,
            "roadwork.gear": verdict.degradation_level,
        }
    )
    tracer = trace.get_tracer("roadwork")
    for report in reversed(verdict.stages):
        began_ns = ended_ns - round(_MS * sum(_parts(report).values()))
        span = tracer.start_span(f"stage {report.stage}", start_time=began_ns)
        _describe(span, report)
        span.end(ended_ns)
        ended_ns = began_ns


def otlp(name: str) -> list[Any]:
    """Span processors that send to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, for `exporter_import_path`.

    name: of a file that Serve suggests; none is written. Raises ConfigError where the exporter is not installed.
    """
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # pyright: ignore
    except ModuleNotFoundError:
        raise ConfigError(
            "tracing to a collector takes opentelemetry-exporter-otlp-proto-http; pip install 'roadwork-serve[tracing]'"
        ) from None
    return [BatchSpanProcessor(OTLPSpanExporter())]


def _describe(span: Span, report: StageReport) -> None:
    told = {f"roadwork.{part}_ms": took for part, took in _parts(report).items()}
    told |= {"roadwork.outcome": report.outcome, "roadwork.batch_size": report.batch_size}
    told |= {"roadwork.tokens": report.tokens, "roadwork.model": report.model or ""}
    for name, value in (("probability", report.probability), ("posterior", report.posterior)):
        if value is not None:
            told[f"roadwork.{name}"] = value
    span.set_attributes(told)
    if report.outcome == "failed":
        span.set_status(StatusCode.ERROR, report.detail)


def _parts(report: StageReport) -> dict[str, float]:
    """Milliseconds."""
    return {part: getattr(report, f"{part}_ms") for part in _PARTS}
