"""Champion and challenger: which of two policies, heads or arms to go by, from what both say of the same items.

Where both judged the same items the comparison is paired (McNemar's exact test); where each had items of its own, as
the arms of an A/B test have, it is not (Fisher's exact test). Intervals are bootstrapped by group.
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
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class PromotionCriteria:
    """accuracy: that the challenger may lose, at most, with the confidence. cheaper: share of the cost that it must
    save to be worth a change that gains no accuracy."""

    accuracy: float = 0.01
    cheaper: float = 0.02
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class PolicyMetrics:
    """One of the two. cost: mean FLOPs an item at production prices; ms: of the models, an item, measured."""

    name: str
    n: int
    accuracy: float
    brier: float
    ece: float
    cost: float
    ms: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """difference: of accuracy, the challenger's less the champion's, with its interval. p_value: of no difference.

    only_champion, only_challenger: items that one alone had right; of a paired comparison.
    """

    media: MediaKind
    paired: bool
    champion: PolicyMetrics
    challenger: PolicyMetrics
    only_champion: int
    only_challenger: int
    p_value: float
    difference: float
    low: float
    high: float
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class PolicyPredictions:
    """What one side said of n items. right: [n]; probability, truth, cost, ms: [n]; group: what hangs together."""

    name: str
    right: Bools
    probability: Floats
    truth: Bools
    cost: Floats
    ms: Floats
    group: tuple[str, ...]


def predictions_under(rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind) -> PolicyPredictions:
    """What a policy would have said of rows in which all its stages spoke."""
    mine = [row for row in rows if row.about.kind == kind and row.about.scored]
    whole = trajectories(mine, policy, kind)
    low, high = (np.array([getattr(step, edge) for step in policy.steps(kind)]) for edge in ("low", "high"))
    said, cost, left = whole.cut(low, high)
    ms = trajectories(mine, policy, kind, latency_cost).cost[np.arange(len(mine)), left]
    return PolicyPredictions(
        policy.version, said == whole.truth, _at(whole, left), whole.truth, cost, ms, _groups(mine)
    )


def predictions_as_answered(rows: Sequence[EvaluationRow], name: str, kind: MediaKind) -> PolicyPredictions:
    """What was answered when the rows were made."""
    mine = [row for row in rows if row.about.kind == kind and row.about.scored]
    truth = np.array([row.about.label for row in mine], dtype=bool)
    said = np.array([row.said for row in mine], dtype=bool)
    return PolicyPredictions(
        name,
        said == truth,
        np.array([row.probability for row in mine]),
        truth,
        np.array([flops(row.entered, kind) for row in mine]),
        np.array([sum(latency_cost(row, stage) for stage in row.entered) for row in mine]),
        _groups(mine),
    )


def compare(
    champion: PolicyPredictions,
    challenger: PolicyPredictions,
    kind: MediaKind,
    paired: bool,
    margins: PromotionCriteria | None = None,
    seed: int = 0,
) -> Comparison:
    """The comparison, and whether to promote the challenger. Raises ConfigError where there is nothing to compare."""
    margins = margins or PromotionCriteria()
    if not len(champion.right) or not len(challenger.right):
        raise ConfigError(f"there are no labelled {kind}s to compare on; label some, or take a longer window")
    if paired:
        ahead, behind = (int(np.sum(each)) for each in _apart(champion, challenger))
        p = float(binomtest(ahead, ahead + behind, 0.5).pvalue) if ahead + behind else 1.0
    else:
        ahead = behind = 0
        table = [[int(each.right.sum()), int((~each.right).sum())] for each in (champion, challenger)]
        p = float(fisher_exact(table).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    difference = float(challenger.right.mean() - champion.right.mean())
    low, high = _interval(champion, challenger, paired, margins.confidence, seed)
    sides = _side(champion), _side(challenger)
    verdict, why = _decide(sides, low, difference, margins)
    return Comparison(kind, paired, *sides, behind, ahead, p, difference, low, high, verdict, why)


def compare_policies(
    champion_rows: Sequence[EvaluationRow],
    challenger_rows: Sequence[EvaluationRow],
    champion: Policy,
    challenger: Policy,
    margins: PromotionCriteria | None = None,
) -> list[Comparison]:
    """Paired, by kind of media, from rows of the same items in which every stage spoke; a kind on which nothing has
    changed is left out.

    The two lists are one and the same, or what stages said under the champion and under the challenger. Raises
    ConfigError where the items are not the same.
    """
    results: list[Comparison] = []
    same_rows = champion_rows is challenger_rows
    if not same_rows:
        known = {(row.about.kind, row.about.name): row for row in challenger_rows}
        wanted = [(row.about.kind, row.about.name) for row in champion_rows]
        if set(wanted) != set(known) or len(wanted) != len(known):
            raise ConfigError(
                "the two sides judged different items; a paired comparison needs the same ones, each once"
            )
        challenger_rows = [known[each] for each in wanted]
        if any(a.about.label != b.about.label for a, b in zip(champion_rows, challenger_rows, strict=True)):
            raise ConfigError("the two sides disagree on what is true; give both the same labels")
    for kind in ("photo", "clip"):
        changed = not same_rows or _unlike(champion, challenger, kind)
        if changed and any(row.about.kind == kind and row.about.scored for row in champion_rows):
            sides = (
                predictions_under(champion_rows, champion, kind),
                predictions_under(challenger_rows, challenger, kind),
            )
            results.append(compare(*sides, kind, paired=True, margins=margins))
    return results


def compare_arms(
    champion_rows: Sequence[EvaluationRow],
    challenger_rows: Sequence[EvaluationRow],
    names: tuple[str, str],
    margins: PromotionCriteria | None = None,
) -> list[Comparison]:
    """Unpaired, by kind of media that both have, from what each answered to items of its own."""
    results: list[Comparison] = []
    for kind in ("photo", "clip"):
        sides = (
            predictions_as_answered(champion_rows, names[0], kind),
            predictions_as_answered(challenger_rows, names[1], kind),
        )
        if all(len(each.right) for each in sides):
            results.append(compare(*sides, kind, paired=False, margins=margins))
    return results


def overall(results: Sequence[Comparison], margins: PromotionCriteria | None = None) -> tuple[Verdict, str]:
    """Promote what gains on one kind of media and loses on none. Raises ConfigError where nothing was compared."""
    margins = margins or PromotionCriteria()
    if not results:
        raise ConfigError("there is nothing to compare: no labelled items on both sides, or rules that are the same")
    worse = [result for result in results if result.low < -margins.accuracy]
    if worse:
        return "keep", "; ".join(f"{result.media}s: {result.why}" for result in worse)
    gains = [result for result in results if result.verdict == "promote"]
    told = "; ".join(f"{result.media}s: {result.why}" for result in gains or results)
    return ("promote" if gains else "keep"), told


def _unlike(champion: Policy, challenger: Policy, kind: MediaKind) -> bool:
    """Whether the two may answer differently."""
    rules = [(policy.steps(kind), policy.prior, policy.decision_threshold) for policy in (champion, challenger)]
    return rules[0] != rules[1]


def _decide(
    sides: tuple[PolicyMetrics, PolicyMetrics], low: float, difference: float, margins: PromotionCriteria
) -> tuple[Verdict, str]:
    champion, challenger = sides
    saving = 1 - challenger.cost / champion.cost if champion.cost else 0.0
    told = f"accuracy {100 * difference:+.2f} points ({100 * margins.confidence:g} %: at least {100 * low:+.2f})"
    told += f", {abs(saving):.0%} {'less' if saving >= 0 else 'more'} compute"
    if low < -margins.accuracy:
        return "keep", f"{told}: it may lose more than {100 * margins.accuracy:g} points"
    if saving >= margins.cheaper:
        return "promote", f"{told}: cheaper, and no worse by more than {100 * margins.accuracy:g} points"
    if low > 0 and saving >= -margins.cheaper:
        return "promote", f"{told}: more accurate at no more cost"
    return "keep", f"{told}: neither cheaper nor more accurate by enough to change anything"


def _interval(
    champion: PolicyPredictions, challenger: PolicyPredictions, paired: bool, confidence: float, seed: int
) -> tuple[float, float]:
    """One-sided each, so that `low` holds with the confidence: by drawing whole groups with replacement, and no closer
    than the score interval, which knows that few items, or few that differ, tell little."""
    rng = np.random.default_rng(seed)
    if paired:
        draws = _means(challenger.right.astype(float) - champion.right, champion.group, rng)
    else:
        draws = _means(challenger.right, challenger.group, rng) - _means(champion.right, champion.group, rng)
    low, high = np.quantile(draws, (1 - confidence, confidence))
    if paired:
        gained, lost = (float(np.sum(each)) for each in _apart(champion, challenger))
        n = len(champion.right)
        least, most = (paired_low(gained, lost, n, confidence), -paired_low(lost, gained, n, confidence))
    else:
        new, old = ((float(each.right.sum()), len(each.right)) for each in (challenger, champion))
        least, most = unpaired_low(*new, *old, confidence), -unpaired_low(*old, *new, confidence)
    return min(float(low), least), max(float(high), most)


def _means(value: NDArray[np.generic], groups: tuple[str, ...], rng: np.random.Generator) -> Floats:
    _, which = np.unique(np.array(groups), return_inverse=True)
    total = np.bincount(which, weights=value.astype(np.float64))
    size = np.bincount(which).astype(np.float64)
    taken = rng.multinomial(len(size), np.full(len(size), 1 / len(size)), size=_DRAWS)
    return (taken @ total) / (taken @ size)


def _apart(champion: PolicyPredictions, challenger: PolicyPredictions) -> tuple[Bools, Bools]:
    return challenger.right & ~champion.right, champion.right & ~challenger.right


def _side(judged: PolicyPredictions) -> PolicyMetrics:
    return PolicyMetrics(
        judged.name,
        len(judged.right),
        float(judged.right.mean()),
        metrics.brier(judged.truth, judged.probability),
        metrics.ece(judged.truth, judged.probability),
        float(judged.cost.mean()),
        float(judged.ms.mean()),
    )


def _at(whole: Trajectories, left: NDArray[np.int64]) -> Floats:
    return whole.posterior[np.arange(len(left)), left]


def _groups(rows: Sequence[EvaluationRow]) -> tuple[str, ...]:
    return fill_group_names([row.about.group for row in rows])
