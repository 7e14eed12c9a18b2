"""Finds the exit bands of least cost with a proven bound on early-exit errors (learn, then test).

An early-exit error is an item that gets a wrong label because it exited early, while all stages together would have
been correct; their rate is at least the extra error rate. On the calibration rows a path of bands is fitted, from no
early exits to always exiting. On the test rows, which had no influence on the path, the bands are tested one after the
other from the widest on, each with an exact binomial p-value, until one fails. The probability that the last band that
passed breaks the bound is at most 1 - confidence, whatever the path: fixed-sequence testing within learn-then-test
(Angelopoulos et al., 2021), with a path of good trade-offs (Laufer-Goren et al., 2023).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.bound import min_sample_size, p_value
from roadwork_serve.calibration.threshold_path import Bands, threshold_path, with_bands
from roadwork_serve.calibration.trajectories import CostFunction, Trajectories, flops_cost, trajectories
from roadwork_serve.cascade.certificate import RiskBound, RiskCertificate
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.splits import fill_group_names, stable_uniforms
from roadwork_serve.schema import MediaKind

METHOD = "learn-then-test, fixed sequence, exact binomial"
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """The bound to prove and the cost to minimise."""

    #: Upper bound on the share of items with an early-exit error.
    risk_limit: float = 0.01
    confidence: float = 0.95
    #: Share of the rows to test with.
    test_share: float = 0.6
    #: Names of the rows that bands and calibration may be, or were, fitted to; the others are the test. None splits
    #: the rows at random.
    calibration_rows: frozenset[str] | None = None
    #: Version of the tuned policy.
    version: str = "tuned"
    cost_function: CostFunction = flops_cost

    def __post_init__(self) -> None:
        for name in ("risk_limit", "confidence", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; write a number between 0 and 1, both excluded")


class BandTest(NamedTuple):
    """The test of one pair of exit bands."""

    #: Mean cost per item.
    cost: float
    #: Number of early-exit errors.
    errors: int
    passed: bool


@dataclass(frozen=True, slots=True)
class MediaResult:
    """The tuning of one media type."""

    media: MediaKind
    #: The bound that was proven for the chosen bands; None when none was.
    bound: RiskBound | None
    #: Mean cost per item under the chosen bands.
    cost: float
    #: Mean cost per item without early exits.
    full_cost: float
    accuracy: float
    full_accuracy: float
    #: Share of the items that exit at each step.
    exits: tuple[float, ...]
    #: The bands tested, from the widest.
    tested_bands: tuple[BandTest, ...]
    #: Number of test rows that were left out so that the rest are independent.
    left_out: int
    #: Number of rows that are missing for any bound; None when none are, or when no number would be enough.
    rows_missing: int | None


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The tuned policy, with a certificate if a bound was proven. Media types without one have no early exits."""

    policy: Policy
    parts: tuple[MediaResult, ...]

    @property
    def shortfall(self) -> str:
        """Explanation of the bounds that were not proven; empty if all were."""
        lines: list[str] = []
        for part in self.parts:
            if part.bound is None:
                wanted = "even the widest bands cause too many early-exit errors, so no number of rows is enough"
                if part.rows_missing is not None:
                    wanted = f"about {part.rows_missing:,} more rows of {part.media}s are needed"
                lines.append(f"no bound was proven for {part.media}s: {wanted}")
        return "; ".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class SequenceTestResult:
    """The outcome of a fixed-sequence test."""

    #: The narrowest bands that keep the bound; None when none do.
    bands: Bands | None
    #: Early-exit errors of these bands on the test.
    errors: int
    #: P-value of these bands.
    p_value: float
    tested_bands: tuple[BandTest, ...]


def fixed_sequence_test(
    calibration: Trajectories, test: Trajectories, risk_limit: float, confidence: float
) -> SequenceTestResult:
    """Fit a path of bands to the calibration rows, and test along it on independent rows."""
    n = len(test.truth)
    result, tested = SequenceTestResult(None, 0, 1.0, ()), list[BandTest]()
    passed = n > 0
    for bands in threshold_path(calibration) if len(calibration.truth) else []:
        predicted, cost, _ = test.apply_bands(*bands)
        errors = int(test.early_exit_errors(predicted).sum())
        p = p_value(errors, n, risk_limit)
        passed = passed and p <= 1 - confidence  # the first failure ends the sequence
        tested.append(BandTest(float(np.mean(cost)) if n else math.nan, errors, bool(passed)))
        if passed:
            result = SequenceTestResult(bands, errors, p, ())
    return replace(result, tested_bands=tuple(tested))


def tune(rows: Sequence[EvaluationRow], base: Policy, settings: TuningSettings) -> TuningResult:
    """Return the base policy with the exit bands of least cost that keep the bound.

    rows: must hold a prediction of every stage of the policy. A media type without rows keeps its bands and gets no
    bound. Raises ConfigError when there are no rows at all.
    """
    usable = [row for row in rows if not row.metadata.ignore]
    kinds: list[MediaKind] = [kind for kind in ("photo", "clip") if any(row.metadata.kind == kind for row in usable)]
    if not kinds:
        raise ConfigError("there are no rows to tune with; take those of `roadwork evaluate --all-stages --rows FILE`")
    policy, parts = base.model_copy(update={"version": settings.version, "certificate": None}), list[MediaResult]()
    confidence = 1 - (1 - settings.confidence) / len(kinds)  # of each media type, so that both bounds hold together
    tested: list[EvaluationRow] = []
    for kind in kinds:
        mine = [row for row in usable if row.metadata.kind == kind]
        policy, part, test = _tune_kind(mine, policy, kind, confidence, settings)
        parts.append(part)
        tested += test if part.bound is not None else []
    bounds = tuple(part.bound for part in parts if part.bound is not None)
    if bounds:
        certificate = RiskCertificate(
            risk_limit=settings.risk_limit,
            confidence=settings.confidence,
            method=METHOD,
            data_sha256=digest(rows),
            human_labeled=sum(not row.metadata.pseudo_labeled for row in tested),
            date=datetime.now(UTC).date().isoformat(),
            bounds=bounds,
        )
        policy = policy.model_copy(update={"certificate": certificate})
    return TuningResult(policy, tuple(parts))


def digest(rows: Sequence[EvaluationRow]) -> str:
    """Return the SHA-256 of rows in any order, hex."""
    each = sorted(hashlib.sha256(json.dumps(row, default=_fields, sort_keys=True).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(each)).hexdigest()


def _fields(part: Any) -> dict[str, Any]:
    """Return the fields of a dataclass: a fast, shallow `dataclasses.asdict`."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def holdout_mask(rows: Sequence[EvaluationRow], share: float) -> Bools:
    """Return which rows are held out for the test, drawn by group, or by name without one; fit nothing to them."""
    return stable_uniforms([row.metadata.group or row.metadata.name for row in rows], "test") < share


def subsample_independent(rows: Sequence[EvaluationRow]) -> Bools:
    """Return which rows to test with: one random row a group, with groups thinned in proportion to their weight.

    A group whose rows stand for w items is kept with probability w / (the largest w), so the rows kept are a fair
    sample of the items, not of the groups.
    """
    names = [row.metadata.name for row in rows]
    weight = np.array([row.weight for row in rows])
    _, group = np.unique(fill_group_names([row.metadata.group for row in rows]), return_inverse=True)
    total = np.bincount(group, weights=weight)
    first: dict[int, int] = {}
    # Heavier rows tend to come first.
    for index in map(int, np.argsort(-(stable_uniforms(names, "first of group") ** (1 / weight)))):
        first.setdefault(int(group[index]), index)
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[list(first.values())] = True
    return chosen & (stable_uniforms(names, "thin") < total[group] / total.max())


def _tune_kind(
    rows: Sequence[EvaluationRow], base: Policy, kind: MediaKind, confidence: float, settings: TuningSettings
) -> tuple[Policy, MediaResult, list[EvaluationRow]]:
    if settings.calibration_rows is None:
        to_test = holdout_mask(rows, settings.test_share)
    else:
        to_test = np.array([row.metadata.name not in settings.calibration_rows for row in rows], dtype=bool)
    full = trajectories(rows, base, kind, settings.cost_function)
    calibration = full.part(~to_test)
    held_out = np.flatnonzero(to_test)
    independent = (
        held_out[subsample_independent([rows[int(index)] for index in held_out])] if len(held_out) else held_out
    )
    test = full.part(np.isin(np.arange(len(rows)), independent))
    proof = fixed_sequence_test(calibration, test, settings.risk_limit, confidence)
    low, high = proof.bands if proof.bands is not None else full.no_exit_bands
    predicted, cost, exit_step = full.apply_bands(low, high)
    bound = None
    if proof.bands is not None:
        bound = RiskBound(
            media=kind, n=len(independent), errors=proof.errors, p_value=proof.p_value, confidence=confidence
        )
    part = MediaResult(
        media=kind,
        bound=bound,
        cost=float(np.mean(cost)),
        full_cost=float(np.mean(full.cost[:, -1])),
        accuracy=float(np.mean(predicted == full.truth)),
        full_accuracy=float(np.mean((full.posterior[:, -1] >= full.decision_threshold) == full.truth)),
        exits=tuple(float(np.mean(exit_step == step)) for step in range(full.posterior.shape[1])),
        tested_bands=proof.tested_bands,
        left_out=len(held_out) - len(independent),
        rows_missing=(
            None if bound is not None else _rows_missing(calibration, len(independent), len(rows), confidence, settings)
        ),
    )
    return (
        with_bands(base, kind, [float(v) for v in low], [float(v) for v in high]),
        part,
        [rows[int(index)] for index in independent],
    )


def _rows_missing(
    calibration: Trajectories, n: int, rows: int, confidence: float, settings: TuningSettings
) -> int | None:
    """Estimate how many more rows are needed, from the error rate of the widest bands on the calibration rows."""
    error_rate = 0.0
    if len(calibration.truth) and (bands := threshold_path(calibration)):
        error_rate = float(np.mean(calibration.early_exit_errors(calibration.apply_bands(*bands[0])[0])))
    wanted = min_sample_size(settings.risk_limit, confidence, error_rate)
    if wanted is None:
        return None
    share = n / rows if n else settings.test_share
    return max(1, math.ceil((wanted - n) / share))
