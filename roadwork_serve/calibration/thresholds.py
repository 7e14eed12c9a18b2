"""Exit bands of least cost with a stated bound on what leaving early costs in errors: learn, then test.

An item is a loss when it is labelled wrong for having left early, all stages together being right: at least as much as
the extra error. On a part of the rows a line of bands is drawn, from never leaving early to always; on the rest, which
had no say in that, they are tested one after the other, from the least eager on, each with an exact binomial p-value,
until one fails. The chance that the last that passed breaks the bound is at most 1 - confidence, whatever the line is:
fixed-sequence testing within learn-then-test (Angelopoulos et al., 2021), with a line of good trade-offs (Laufer-Goren
et al., 2023).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.bound import min_sample_size, p_value
from roadwork_serve.calibration.threshold_path import Bands, threshold_path, with_bands
from roadwork_serve.calibration.trajectories import Price, Trajectories, flops_cost, trajectories
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
    """max_loss: share of all items that may be lost, at most. test_share: of the rows, for the test.

    rows_to_design: names of rows that bands and calibrators may be, or have been, fitted to; the others are the test.
        None draws lots.
    """

    risk_limit: float = 0.01
    confidence: float = 0.95
    test_share: float = 0.6
    rows_to_design: frozenset[str] | None = None
    version: str = "tuned"
    price: Price = flops_cost

    def __post_init__(self) -> None:
        for name in ("risk_limit", "confidence", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; write a number between 0 and 1, both excluded")


@dataclass(frozen=True, slots=True)
class MediaResult:
    """One kind of media. promise: of the bands chosen; thinned: rows that the test left out, to be fair.

    cost, full_cost: a mean item's under the bands and with all stages asked. exits: share that left at each step.
    tried: as in `SequenceTestResult`. more: rows that are missing for any promise; None where none are, or no number would do.
    """

    media: MediaKind
    promise: RiskBound | None
    cost: float
    full_cost: float
    accuracy: float
    full_accuracy: float
    exits: tuple[float, ...]
    tried: tuple[tuple[float, int, bool], ...]
    thinned: int
    more: int | None


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The policy: with its certificate where something could be promised; a kind that could not leaves nobody early."""

    policy: Policy
    parts: tuple[MediaResult, ...]

    @property
    def why_not(self) -> str:
        """What is missing, in words; empty where all was promised."""
        lines: list[str] = []
        for part in self.parts:
            if part.promise is None:
                wanted = "even the least eager exits are lost too often, so no number of rows would do"
                if part.more is not None:
                    wanted = f"about {part.more:,} more rows of {part.media}s are needed"
                lines.append(f"nothing can be promised of {part.media}s: {wanted}")
        return "; ".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class SequenceTestResult:
    """bands: the most eager that keep the bound, None where none was proven to. losses, p_value: of these, on the test.

    tried: of each bands of the line, the mean cost and the losses on the test, and whether it passed.
    """

    bands: Bands | None
    losses: int
    p_value: float
    tried: tuple[tuple[float, int, bool], ...]


def fixed_sequence_test(
    design: Trajectories, test: Trajectories, risk_limit: float, confidence: float
) -> SequenceTestResult:
    """Draw the line of bands on the design and test along it, on rows that are independent and had no say in it."""
    n = len(test.truth)
    proof, tried = SequenceTestResult(None, 0, 1.0, ()), list[tuple[float, int, bool]]()
    going = n > 0
    for bands in threshold_path(design) if len(design.truth) else []:
        said, cost, _ = test.cut(*bands)
        losses = int(test.losses(said).sum())
        p = p_value(losses, n, risk_limit)
        going = going and p <= 1 - confidence  # one that fails ends it, whatever comes behind
        tried.append((float(np.mean(cost)) if n else math.nan, losses, bool(going)))
        if going:
            proof = SequenceTestResult(bands, losses, p, ())
    return replace(proof, tried=tuple(tried))


def tune(rows: Sequence[EvaluationRow], base: Policy, settings: TuningSettings) -> TuningResult:
    """The base policy with the exit bands of least cost that keep the bound.

    rows: in which every stage of the policy spoke. Where a kind of media has no rows its bands stay as they are and
    nothing is promised of it. Raises ConfigError where there are none at all.
    """
    scored = [row for row in rows if row.about.scored]
    kinds: list[MediaKind] = [kind for kind in ("photo", "clip") if any(row.about.kind == kind for row in scored)]
    if not kinds:
        raise ConfigError(
            "there are no rows to tune with; take those of `roadwork evaluate --ask-everyone --rows FILE`"
        )
    policy, parts = replace(base, version=settings.version, certificate=None), list[MediaResult]()
    confidence = 1 - (1 - settings.confidence) / len(kinds)  # each kind's own, so that both hold together
    tested: list[EvaluationRow] = []
    for kind in kinds:
        mine = [row for row in scored if row.about.kind == kind]
        policy, part, test = _tune_kind(mine, policy, kind, confidence, settings)
        parts.append(part)
        tested += test if part.promise is not None else []
    promises = tuple(part.promise for part in parts if part.promise is not None)
    if promises:
        policy = replace(
            policy,
            certificate=RiskCertificate(
                settings.risk_limit,
                settings.confidence,
                METHOD,
                digest(rows),
                sum(not row.about.taught for row in tested),
                datetime.now(UTC).date().isoformat(),
                promises,
            ),
        )
    return TuningResult(policy, tuple(parts))


def digest(rows: Sequence[EvaluationRow]) -> str:
    """SHA-256 of rows, hex, whatever their order."""
    each = sorted(hashlib.sha256(json.dumps(row, default=_fields, sort_keys=True).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(each)).hexdigest()


def _fields(part: Any) -> dict[str, Any]:
    """As `dataclasses.asdict`, several times as fast."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def holdout_mask(rows: Sequence[EvaluationRow], share: float) -> Bools:
    """Which rows lots by group, or where there is none by name, keep for the test: nothing may be fitted to them."""
    return stable_uniforms([row.about.group or row.about.name for row in rows], "test") < share


def subsample_independent(rows: Sequence[EvaluationRow]) -> Bools:
    """Which rows to test with: one of each group, drawn by lot, and of groups that stand for unequal parts of the
    traffic as many as make them equal.

    A group whose rows together stand for w items stays with the chance w over the largest, so those that stay are a
    fair sample of the items, not of the groups.
    """
    names = [row.about.name for row in rows]
    weight = np.array([row.weight for row in rows])
    _, group = np.unique(fill_group_names([row.about.group for row in rows]), return_inverse=True)
    total = np.bincount(group, weights=weight)
    first: dict[int, int] = {}
    for at in map(
        int, np.argsort(-(stable_uniforms(names, "first of group") ** (1 / weight)))
    ):  # the heavier, the sooner
        first.setdefault(int(group[at]), at)
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[list(first.values())] = True
    return chosen & (stable_uniforms(names, "thin") < total[group] / total.max())


def _tune_kind(
    rows: Sequence[EvaluationRow], base: Policy, kind: MediaKind, confidence: float, settings: TuningSettings
) -> tuple[Policy, MediaResult, list[EvaluationRow]]:
    if settings.rows_to_design is None:
        to_test = holdout_mask(rows, settings.test_share)
    else:
        to_test = np.array([row.about.name not in settings.rows_to_design for row in rows], dtype=bool)
    whole = trajectories(rows, base, kind, settings.price)
    design = whole.part(~to_test)
    at_test = np.flatnonzero(to_test)
    fair = at_test[subsample_independent([rows[int(at)] for at in at_test])] if len(at_test) else at_test
    test = whole.part(np.isin(np.arange(len(rows)), fair))
    proof = fixed_sequence_test(design, test, settings.risk_limit, confidence)
    low, high = proof.bands if proof.bands is not None else whole.never
    said, cost, left = whole.cut(low, high)
    promise = None
    if proof.bands is not None:
        promise = RiskBound(kind, len(fair), proof.losses, proof.p_value, confidence)
    part = MediaResult(
        media=kind,
        promise=promise,
        cost=float(np.mean(cost)),
        full_cost=float(np.mean(whole.cost[:, -1])),
        accuracy=float(np.mean(said == whole.truth)),
        full_accuracy=float(np.mean((whole.posterior[:, -1] >= whole.decision_threshold) == whole.truth)),
        exits=tuple(float(np.mean(left == step)) for step in range(whole.posterior.shape[1])),
        tried=proof.tried,
        thinned=len(at_test) - len(fair),
        more=None if promise is not None else _more(design, len(fair), len(rows), confidence, settings),
    )
    return (
        with_bands(base, kind, [float(v) for v in low], [float(v) for v in high]),
        part,
        [rows[int(at)] for at in fair],
    )


def _more(design: Trajectories, n: int, rows: int, confidence: float, settings: TuningSettings) -> int | None:
    """Rows it would take beside those there are, going by what is lost on the design by the least eager bands."""
    loss = 0.0
    if len(design.truth) and (bands := threshold_path(design)):
        loss = float(np.mean(design.losses(design.cut(*bands[0])[0])))
    wanted = min_sample_size(settings.risk_limit, confidence, loss)
    if wanted is None:
        return None
    share = n / rows if n else settings.test_share
    return max(1, math.ceil((wanted - n) / share))
