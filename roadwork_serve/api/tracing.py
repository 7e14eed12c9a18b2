"""OpenTelemetry spans of an item's way through the cascade, below the span that Ray Serve opens for the request.

Ray Serve takes a caller's W3C trace context, passes it on to the replica, samples and exports, all configured by
`tracing_config` in serve_config.yaml. Without it, and for requests that are not sampled, nothing is recorded here.
"""

import time
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode

from roadwork_serve.api.observers import VerdictEvent, VerdictObserver
from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import StageReport, Verdict

_MS = 1_000_000  # nanoseconds
_PARTS = ("queue", "preprocess", "compute", "rpc")


class Tracing(VerdictObserver):
    """Adds the stages of each verdict to the open span."""

    async def on_verdict(self, event: VerdictEvent) -> None:
        """Trace the stages of the verdict."""
        trace_stages(event.verdict, time.time_ns())


def trace_stages(verdict: Verdict, ended_ns: int) -> None:
    """Add a span for each stage that ran, and the verdict's attributes to the open span.

    Stages run one after the other, so each ends where the next begins: the start times are computed backwards from
    the measured durations.

    Args:
        verdict: The verdict.
        ended_ns: Time of the verdict, epoch nanoseconds.
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
            "roadwork.policy_version": verdict.policy_version,
            "roadwork.profile": verdict.profile,
            "roadwork.degradation_level": verdict.degradation_level,
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
    """Return span processors that export to the collector at OTEL_EXPORTER_OTLP_ENDPOINT, for `exporter_import_path`.

    Raises ConfigError if the exporter is not installed.

    Args:
        name: Name of a file that Ray Serve suggests; none is written.
    """
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # pyright: ignore
    except ModuleNotFoundError:
        raise ConfigError(
            "export to a collector needs opentelemetry-exporter-otlp-proto-http; pip install 'roadwork-serve[tracing]'"
        ) from None
    return [BatchSpanProcessor(OTLPSpanExporter())]


def _describe(span: Span, report: StageReport) -> None:
    attributes: dict[str, Any] = {f"roadwork.{part}_ms": took for part, took in _parts(report).items()}
    attributes |= {"roadwork.outcome": report.outcome, "roadwork.batch_size": report.batch_size}
    attributes |= {"roadwork.tokens": report.tokens, "roadwork.model": report.model or ""}
    for name, value in (("probability", report.probability), ("posterior", report.posterior)):
        if value is not None:
            attributes[f"roadwork.{name}"] = value
    span.set_attributes(attributes)
    if report.outcome == "failed":
        span.set_status(StatusCode.ERROR, report.detail)


def _parts(report: StageReport) -> dict[str, float]:
    """Return the parts of the stage's latency in milliseconds."""
    return {part: getattr(report, f"{part}_ms") for part in _PARTS}
