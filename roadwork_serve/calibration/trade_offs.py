"""The cost of alternative bounds.

Every row is tested, but the guarantee holds only for a bound chosen before looking at the table.
"""

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
    """One bound with one confidence, for one media type."""

    media: MediaKind
    risk_limit: float
    confidence: float
    #: Whether the test passes.
    proven: bool
    #: Mean cost per item under the bands found.
    cost: float
    #: Mean cost per item without early exits.
    full_cost: float
    accuracy: float
    #: Share of the items that exit at each step.
    exits: tuple[float, ...]
    #: Number of items that a test needs if it finds no errors.
    min_test_size: int
    #: Number of items in this test; 0 when nothing was proven.
    test_size: int
    #: Number of rows that are missing; None when none are, or when no number would be enough.
    rows_missing: int | None


def trade_offs(
    rows: Sequence[EvaluationRow],
    base: Policy,
    settings: TuningSettings,
    bounds: Sequence[float] = BOUNDS,
    confidences: Sequence[float] = CONFIDENCES,
) -> list[TradeOff]:
    """Return every bound with every confidence, by media type."""
    cases: list[TradeOff] = []
    for confidence in confidences:
        for bound in bounds:
            parts = tune(rows, base, replace(settings, risk_limit=bound, confidence=confidence)).parts
            own = 1 - (1 - confidence) / len(parts)
            for part in parts:
                proven = part.bound
                cases.append(
                    TradeOff(
                        part.media,
                        bound,
                        confidence,
                        proven is not None,
                        part.cost,
                        part.full_cost,
                        part.accuracy,
                        part.exits,
                        min_sample_size(bound, own) or 0,
                        0 if proven is None else proven.n,
                        part.rows_missing,
                    )
                )
    return sorted(cases, key=lambda case: (case.media != "photo", case.risk_limit, case.confidence))
