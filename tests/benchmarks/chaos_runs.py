"""Synthetic requests and verdicts for the tests of chaos runs."""

from typing import Any

from benchmarks.chaos.outcomes import Outcome, Record
from benchmarks.chaos.plan import File
from roadwork_serve.schema import Exit, ExitReason, StageReport, Verdict

STILL = File("a.jpg", "image/jpeg", b"still", "still")
CLIP = File("a.mp4", "video/mp4", b"clip", "clip")
HOSTILE = File("bomb", "application/octet-stream", b"bomb", "hostile", 413)
POLICY: dict[str, Any] = {
    "version": "one",
    "photo": [
        {"stage": "backbone", "exit": [0.1, 0.9]},
        {"stage": "vlm", "exit": [0.2, 0.8]},
        {"stage": "reasoner", "exit": [0.5, 0.5]},
    ],
    "clip": [
        {"stage": "backbone", "exit": [0.1, 0.9]},
        {"stage": "signs", "exit": [0, 1]},
        {"stage": "video", "exit": [0.5, 0.5]},
    ],
}


def verdict(
    *posteriors: float,
    request_id: str = "r",
    version: str = "one",
    reason: ExitReason = "above_band",
    degraded: bool = False,
    stages: tuple[str, ...] = ("backbone", "vlm", "reasoner"),
) -> Verdict:
    """Return a photo's verdict after stages that left these posteriors, the last the exit."""
    reports = [
        StageReport(stage=stage, outcome="answered", posterior=posterior)
        for stage, posterior in zip(stages, posteriors, strict=False)
    ]
    return Verdict(
        request_id=request_id,
        media="photo",
        label="roadwork" if posteriors[-1] >= 0.5 else "none",
        probability=posteriors[-1],
        exit=Exit(stage=reports[-1].stage, reason=reason),
        degraded=degraded,
        stages=reports,
        policy_version=version,
        profile="test",
        elapsed_ms=5,
    )


def record(
    request_id: str = "r",
    outcome: Outcome = "answered",
    phase: str = "1x calm",
    sent_s: float = 0.0,
    took_s: float = 0.5,
    version: str = "one",
    lag_s: float = 0.0,
    given: Verdict | None = None,
) -> Record:
    """Return a request with a deadline of a second, by default answered by stage 1."""
    if outcome == "answered" and given is None:
        given = verdict(0.95, request_id=request_id, version=version)
    return Record(request_id, "still", phase, sent_s, sent_s + took_s, 1.0, outcome, "", given, lag_s=lag_s)
