"""Compares a champion with a challenger: two policies, heads or arms of an A/B test.

If both classified the same items the comparison is paired (McNemar's exact test); if each had its own items, as the
arms of an A/B test do, it is not (Fisher's exact test). Intervals are bootstrapped by group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, fisher_exact

from roadwork_serve.calibration.trajectories import Trajectories, latency_cost, trajectories
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.intervals import paired_low, unpaired_low
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.splits import fill_group_names
from roadwork_serve.profiles.flops import flops
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Verdict = Literal["promote", "keep"]
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class PromotionCriteria:
    """Criteria for replacing the champion by a challenger."""

    #: Accuracy that the challenger may lose at most, with the confidence.
    max_accuracy_loss: float = 0.01
    #: Share of the cost that it must save when it gains no accuracy.
    min_saving: float = 0.02
    confidence: float = 0.95
    #: Gain of accuracy, with the confidence, that is worth any cost. By default none: a person decides.
    min_gain: float = 1.0


@dataclass(frozen=True, slots=True)
class PolicyMetrics:
    """Metrics of one of the two."""

    name: str
    n: int
    accuracy: float
    brier: float
    ece: float
    #: Mean FLOPs per item, for models of production size.
    cost: float
    #: Mean measured time of the models per item.
    ms: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of champion and challenger on one media type."""

    media: MediaKind
    #: Whether both classified the same items.
    paired: bool
    champion: PolicyMetrics
    challenger: PolicyMetrics
    #: Items that only the champion got right; 0 if unpaired.
    only_champion: int
    #: Items that only the challenger got right; 0 if unpaired.
    only_challenger: int
    #: P-value of the hypothesis that they are equally accurate.
    p_value: float
    #: Accuracy of the challenger less that of the champion.
    difference: float
    #: Confidence interval of the difference.
    low: float
    high: float
    verdict: Verdict
    #: Reason for the verdict.
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class PolicyPredictions:
    """The predictions of one side for n items; arrays are [n]."""

    name: str
    correct: Bools
    probability: Floats
    truth: Bools
    cost: Floats
    ms: Floats
    #: Group of each item; groups are resampled as a whole.
    group: tuple[str, ...]


def predictions_under(rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind) -> PolicyPredictions:
    """Return what a policy predicts for rows that hold all its stages."""
    kept = [row for row in rows if row.metadata.kind == kind and not row.metadata.ignore]
    full = trajectories(kept, policy, kind)
    low, high = (np.array([getattr(step, edge) for step in policy.steps(kind)]) for edge in ("low", "high"))
    predicted, cost, exit_step = full.apply_bands(low, high)
    ms = trajectories(kept, policy, kind, latency_cost).cost[np.arange(len(kept)), exit_step]
    return PolicyPredictions(
        policy.version, predicted == full.truth, _at(full, exit_step), full.truth, cost, ms, _groups(kept)
    )


def predictions_as_served(rows: Sequence[EvaluationRow], name: str, kind: MediaKind) -> PolicyPredictions:
    """Return the predictions that were served when the rows were made."""
    kept = [row for row in rows if row.metadata.kind == kind and not row.metadata.ignore]
    truth = np.array([row.metadata.label for row in kept], dtype=bool)
    predicted = np.array([row.predicted_label for row in kept], dtype=bool)
    return PolicyPredictions(
        name,
        predicted == truth,
        np.array([row.probability for row in kept]),
        truth,
        np.array([flops(row.entered, kind) for row in kept]),
        np.array([sum(latency_cost(row, stage) for stage in row.entered) for row in kept]),
        _groups(kept),
    )


def compare(
    champion: PolicyPredictions,
    challenger: PolicyPredictions,
    kind: MediaKind,
    paired: bool,
    criteria: PromotionCriteria | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the predictions and decide on promotion. Raises ConfigError when one side has no items."""
    criteria = criteria or PromotionCriteria()
    if not len(champion.correct) or not len(challenger.correct):
        raise ConfigError(f"there are no labelled {kind}s to compare on; label some, or take a longer window")
    if paired:
        ahead, behind = (int(np.sum(each)) for each in _disagreements(champion, challenger))
        p = float(binomtest(ahead, ahead + behind, 0.5).pvalue) if ahead + behind else 1.0
    else:
        ahead = behind = 0
        table = [[int(each.correct.sum()), int((~each.correct).sum())] for each in (champion, challenger)]
        p = float(fisher_exact(table).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    difference = float(challenger.correct.mean() - champion.correct.mean())
    low, high = _interval(champion, challenger, paired, criteria.confidence, seed)
    sides = _metrics(champion), _metrics(challenger)
    verdict, reason = _decide(sides, low, difference, criteria)
    return Comparison(kind, paired, *sides, behind, ahead, p, difference, low, high, verdict, reason)


def compare_policies(
    champion_rows: Sequence[EvaluationRow],
    challenger_rows: Sequence[EvaluationRow],
    champion: Policy,
    challenger: Policy,
    criteria: PromotionCriteria | None = None,
) -> list[Comparison]:
    """Compare two policies on the same items, by media type; a media type without changes is left out.

    The two lists of rows are the same list, or hold the stages' predictions under the champion and the challenger.
    Raises ConfigError when the items differ.
    """
    results: list[Comparison] = []
    same_rows = champion_rows is challenger_rows
    if not same_rows:
        known = {(row.metadata.kind, row.metadata.name): row for row in challenger_rows}
        wanted = [(row.metadata.kind, row.metadata.name) for row in champion_rows]
        if set(wanted) != set(known) or len(wanted) != len(known):
            raise ConfigError("the two sides hold different items; a paired comparison needs the same ones, each once")
        challenger_rows = [known[each] for each in wanted]
        if any(a.metadata.label != b.metadata.label for a, b in zip(champion_rows, challenger_rows, strict=True)):
            raise ConfigError("the two sides have different labels for an item; give both the same labels")
    for kind in ("photo", "clip"):
        changed = not same_rows or _differs(champion, challenger, kind)
        if changed and any(row.metadata.kind == kind and not row.metadata.ignore for row in champion_rows):
            sides = (
                predictions_under(champion_rows, champion, kind),
                predictions_under(challenger_rows, challenger, kind),
            )
            results.append(compare(*sides, kind, paired=True, criteria=criteria))
    return results


def compare_arms(
    champion_rows: Sequence[EvaluationRow],
    challenger_rows: Sequence[EvaluationRow],
    names: tuple[str, str],
    criteria: PromotionCriteria | None = None,
) -> list[Comparison]:
    """Compare two arms on their own items (unpaired), for each media type that both have."""
    results: list[Comparison] = []
    for kind in ("photo", "clip"):
        sides = (
            predictions_as_served(champion_rows, names[0], kind),
            predictions_as_served(challenger_rows, names[1], kind),
        )
        if all(len(each.correct) for each in sides):
            results.append(compare(*sides, kind, paired=False, criteria=criteria))
    return results


def overall(results: Sequence[Comparison], criteria: PromotionCriteria | None = None) -> tuple[Verdict, str]:
    """Promote when one media type gains and none loses. Raises ConfigError when there are no comparisons."""
    criteria = criteria or PromotionCriteria()
    if not results:
        raise ConfigError("there is nothing to compare: no labelled items on both sides, or identical policies")
    worse = [result for result in results if result.low < -criteria.max_accuracy_loss]
    if worse:
        return "keep", "; ".join(f"{result.media}s: {result.reason}" for result in worse)
    gains = [result for result in results if result.verdict == "promote"]
    summary = "; ".join(f"{result.media}s: {result.reason}" for result in gains or results)
    return ("promote" if gains else "keep"), summary


def _differs(champion: Policy, challenger: Policy, kind: MediaKind) -> bool:
    """Return whether the two policies can differ in their predictions."""
    parts = [(policy.steps(kind), policy.prior, policy.decision_threshold) for policy in (champion, challenger)]
    return parts[0] != parts[1]


def _decide(
    sides: tuple[PolicyMetrics, PolicyMetrics], low: float, difference: float, criteria: PromotionCriteria
) -> tuple[Verdict, str]:
    champion, challenger = sides
    saving = 1 - challenger.cost / champion.cost if champion.cost else 0.0
    summary = f"accuracy {100 * difference:+.2f} points ({100 * criteria.confidence:g} %: at least {100 * low:+.2f})"
    summary += f", {abs(saving):.0%} {'less' if saving >= 0 else 'more'} compute"
    if low < -criteria.max_accuracy_loss:
        return "keep", f"{summary}: it may lose more than {100 * criteria.max_accuracy_loss:g} points"
    if saving >= criteria.min_saving:
        return "promote", f"{summary}: cheaper, and no worse by more than {100 * criteria.max_accuracy_loss:g} points"
    if low > 0 and saving >= -criteria.min_saving:
        return "promote", f"{summary}: more accurate at no more cost"
    if low >= criteria.min_gain:
        return "promote", f"{summary}: more accurate by at least {100 * criteria.min_gain:g} points"
    if low > 0:
        return "keep", f"{summary}: more accurate at more cost; say with --min-gain which gain is worth it"
    return "keep", f"{summary}: neither cheaper nor more accurate by enough to change anything"


def _interval(
    champion: PolicyPredictions, challenger: PolicyPredictions, paired: bool, confidence: float, seed: int
) -> tuple[float, float]:
    """Return an interval whose bounds are each one-sided at the confidence.

    Bootstrapped over whole groups, and never tighter than the score interval, which stays wide for few items.
    """
    rng = np.random.default_rng(seed)
    if paired:
        resampled = _means(challenger.correct.astype(float) - champion.correct, champion.group, rng)
    else:
        resampled = _means(challenger.correct, challenger.group, rng) - _means(champion.correct, champion.group, rng)
    low, high = np.quantile(resampled, (1 - confidence, confidence))
    if paired:
        gained, lost = (float(np.sum(each)) for each in _disagreements(champion, challenger))
        n = len(champion.correct)
        least, most = (paired_low(gained, lost, n, confidence), -paired_low(lost, gained, n, confidence))
    else:
        new, old = ((float(each.correct.sum()), len(each.correct)) for each in (challenger, champion))
        least, most = unpaired_low(*new, *old, confidence), -unpaired_low(*old, *new, confidence)
    return min(float(low), least), max(float(high), most)


def _means(value: NDArray[np.generic], groups: tuple[str, ...], rng: np.random.Generator) -> Floats:
    _, group_index = np.unique(np.array(groups), return_inverse=True)
    total = np.bincount(group_index, weights=value.astype(np.float64))
    size = np.bincount(group_index).astype(np.float64)
    counts = rng.multinomial(len(size), np.full(len(size), 1 / len(size)), size=_RESAMPLES)
    return (counts @ total) / (counts @ size)


def _disagreements(champion: PolicyPredictions, challenger: PolicyPredictions) -> tuple[Bools, Bools]:
    return challenger.correct & ~champion.correct, champion.correct & ~challenger.correct


def _metrics(predictions: PolicyPredictions) -> PolicyMetrics:
    return PolicyMetrics(
        predictions.name,
        len(predictions.correct),
        float(predictions.correct.mean()),
        metrics.brier(predictions.truth, predictions.probability),
        metrics.ece(predictions.truth, predictions.probability),
        float(predictions.cost.mean()),
        float(predictions.ms.mean()),
    )


def _at(full: Trajectories, exit_step: NDArray[np.int64]) -> Floats:
    return full.posterior[np.arange(len(exit_step)), exit_step]


def _groups(rows: Sequence[EvaluationRow]) -> tuple[str, ...]:
    return fill_group_names([row.metadata.group for row in rows])
