"""What other bounds would cost. A table to choose from: each of its lines is tested, but only what is asked for first,
before the table was seen, is promised."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from roadwork_serve.calibration.bound import min_sample_size
from roadwork_serve.calibration.thresholds import TuningSettings, tune
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.schema import MediaKind

BOUNDS = (0.005, 0.01, 0.02, 0.05)
CONFIDENCES = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class TradeOff:
    """holds: the test would be passed by bands of this cost and these exits. least: items a test takes at the least,
    without a loss among them. n: that this test had; 0 where nothing was promised. more: rows that are missing."""

    media: MediaKind
    risk_limit: float
    confidence: float
    holds: bool
    cost: float
    full_cost: float
    accuracy: float
    exits: tuple[float, ...]
    least: int
    n: int
    more: int | None


def trade_offs(
    rows: Sequence[EvaluationRow],
    base: Policy,
    settings: TuningSettings,
    bounds: Sequence[float] = BOUNDS,
    confidences: Sequence[float] = CONFIDENCES,
) -> list[TradeOff]:
    """Every bound with every confidence, by kind of media."""
    cases: list[TradeOff] = []
    for confidence in confidences:
        for bound in bounds:
            parts = tune(rows, base, replace(settings, risk_limit=bound, confidence=confidence)).parts
            own = 1 - (1 - confidence) / len(parts)
            for part in parts:
                promise = part.promise
                cases.append(
                    TradeOff(
                        part.media,
                        bound,
                        confidence,
                        promise is not None,
                        part.cost,
                        part.full_cost,
                        part.accuracy,
                        part.exits,
                        min_sample_size(bound, own) or 0,
                        0 if promise is None else promise.n,
                        part.more,
                    )
                )
    return sorted(cases, key=lambda case: (case.media != "photo", case.risk_limit, case.confidence))
