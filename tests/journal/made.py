"""Synthetic journal records."""

import hashlib
from typing import Any

import numpy as np

from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.schema import Exit, StageReport, Verdict


def report(stage: str, probability: float | None = 0.5, **fields: Any) -> StageReport:
    outcome = "abstained" if probability is None else "answered"
    return StageReport(**{"stage": stage, "outcome": outcome, "model": "fake", "probability": probability} | fields)


def verdict(name: str, probability: float = 0.9, stages: tuple[StageReport, ...] = (), **fields: Any) -> Verdict:
    given = {
        "answer_id": name,
        "request_id": f"request-{name}",
        "media": "photo",
        "label": "roadwork" if probability >= 0.5 else "none",
        "probability": probability,
        "exit": Exit(stage="backbone", reason="above_band"),
        "stages": list(stages or (report("backbone", probability),)),
        "policy_version": "made-1",
        "profile": "made",
        "elapsed_ms": 1.0,
    }
    return Verdict(**given | fields)


def entry(name: str, probability: float = 0.9, created_at_s: float = 1000.0, **fields: Any) -> PredictionRecord:
    """Return a prediction record; `verdict` maps fields of its verdict to values."""
    media = fields.pop("media", None)
    given = {
        "id": name,
        "created_at_s": created_at_s,
        "verdict": verdict(name, probability, **fields.pop("verdict", {})),
        "origin": "http",
        "caller": "ann",
        "key": "",
        "policy_revision": 1,
        "sha256": hashlib.sha256(media or name.encode()).hexdigest(),
        "size": len(media) if media else 3,
        "media": media,
        "features": np.full((1, 4), 0.5, np.float16),
        "features_model": "made",
    }
    return PredictionRecord(**given | fields)


def audit(of: str, *stages: StageReport) -> DeferredResult:
    return DeferredResult(of, 1001.0, "audit", stages=stages)
