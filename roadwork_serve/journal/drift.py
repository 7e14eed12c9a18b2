"""Statistical tests for drift: exits, scores of stages, and image features of two sets of predictions."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.traffic_stats import Moments, TrafficSample, mean_shift, psi

EXITS, FEATURES = "exits", "features"
MIN_PREDICTIONS = 30  # on either side; with fewer nothing is tested
_PERMUTATIONS = 999


@dataclass(frozen=True, slots=True)
class Shift:
    """The change of one property."""

    #: `exits`, `features`, the stage whose scores are compared, or `verdict` for the posterior.
    name: str
    #: For features the distance of the means in standard deviations; for the rest the population stability index.
    size: float
    #: p-value of the hypothesis that nothing has changed; None if it could not be tested.
    p: float | None
    #: Predictions of the reference.
    reference: int
    #: Predictions of the window.
    window: int
    #: The reason that it could not be tested.
    untested: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparison of a window of predictions with a reference."""

    #: Predictions of the reference.
    reference: int
    #: Predictions of the window.
    window: int
    #: Every property that was compared.
    shifts: tuple[Shift, ...]

    def significant(self, level: float = 0.01) -> tuple[Shift, ...]:
        """Return the significant shifts, with the family-wise error rate limited to the level (Holm 1979)."""
        tested = sorted((shift for shift in self.shifts if shift.p is not None), key=lambda shift: shift.p or 0)
        found: list[Shift] = []
        for at, shift in enumerate(tested):
            if shift.p is None or shift.p * (len(tested) - at) > level:
                break
            found.append(shift)
        return tuple(found)


def drift(
    reference: Iterable[JournalRow], window: Iterable[JournalRow], permutations: int = _PERMUTATIONS, seed: int = 0
) -> Drift:
    """Compare the rows of a window with those of a reference. Holds a few thousand numbers of each in memory.

    The tests assume independent predictions. Frames of one drive are not, so remove duplicates first
    (`duplicates.without_duplicates`).
    """
    before, after = TrafficSample(), TrafficSample()
    for side, rows in ((before, reference), (after, window)):
        for row in rows:
            side.add(row.prediction)
    rng = np.random.default_rng(seed)
    shifts = [_exits(before, after, permutations, rng)]
    shifts += [_scores(stage, before, after) for stage in sorted(before.scores.keys() | after.scores.keys())]
    if before.vectors or after.vectors:
        shifts.append(_features(before, after, permutations, rng))
    return Drift(before.stats.predictions, after.stats.predictions, tuple(shifts))


def _exits(before: TrafficSample, after: TrafficSample, permutations: int, rng: np.random.Generator) -> Shift:
    """Test exit stages and reasons with chi-square; the p-value comes from random tables with the same margins."""
    exits = sorted(before.stats.exits.keys() | after.stats.exits.keys())
    mine, theirs = ([side.stats.exits[each] for each in exits] for side in (before, after))
    sizes = sum(mine), sum(theirs)
    too_few = _too_few(*sizes)
    p = None
    if not too_few:
        both = np.array(mine) + np.array(theirs)
        drawn = rng.multivariate_hypergeometric(both, sizes[0], size=permutations)
        expected = both * (sizes[0] / sum(sizes))
        squares = ((np.vstack([mine, drawn]) - expected) ** 2 / expected).sum(1)
        p = _p_value(squares)
    return Shift(EXITS, psi(mine, theirs) if exits else 0.0, p, *sizes, too_few)


def _scores(stage: str, before: TrafficSample, after: TrafficSample) -> Shift:
    """Test a stage's scores with Kolmogorov and Smirnov's test, which is conservative for equal scores."""
    bins = [side.stats.scores.get(stage, []) for side in (before, after)]
    sizes = sum(bins[0]), sum(bins[1])
    too_few = _too_few(*sizes)
    p = None
    if not too_few:
        p = kolmogorov(*(np.array(side.scores[stage].ordered()) for side in (before, after)))
    blank = [0] * max(map(len, bins))
    return Shift(stage, psi(bins[0] or blank, bins[1] or blank), p, *sizes, too_few)


def kolmogorov(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return the p-value of the two-sample test: its limit, with Stephens' correction for small samples (1970)."""
    mine, theirs = np.sort(mine), np.sort(theirs)
    everything = np.concatenate([mine, theirs])
    shares = (np.searchsorted(some, everything, "right") / len(some) for some in (mine, theirs))
    distance = float(np.abs(np.subtract(*shares)).max())
    root = math.sqrt(len(mine) * len(theirs) / len(everything))
    by = (root + 0.12 + 0.11 / root) * distance
    if by < 0.2:  # the series converges too slowly there, and is 1
        return 1.0
    return min(1.0, max(0.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * by) ** 2) for k in range(1, 101))))


def _features(before: TrafficSample, after: TrafficSample, permutations: int, rng: np.random.Generator) -> Shift:
    """Test features with the maximum mean discrepancy (Gretton et al. 2012) and a permutation test."""
    moments = before.stats.moments, after.stats.moments
    common = moments[0].keys() & moments[1].keys()
    if not common:
        mine, theirs = (sum(each.count for each in side.values()) for side in moments)
        return Shift(FEATURES, 0.0, None, mine, theirs, _no_common_backbone(*moments))
    kind = max(common, key=lambda kind: (min(side[kind].count for side in moments), kind))
    sizes = moments[0][kind].count, moments[1][kind].count
    too_few = _too_few(*sizes)
    p = None
    if not too_few:
        mine, theirs = (np.stack(side.vectors[kind].ordered()) for side in (before, after))
        p = maximum_mean_discrepancy(mine, theirs, permutations, rng)
    return Shift(FEATURES, mean_shift(*(side[kind] for side in moments)), p, *sizes, too_few)


def maximum_mean_discrepancy(
    mine: NDArray[np.float32], theirs: NDArray[np.float32], permutations: int, rng: np.random.Generator
) -> float:
    """Return the p-value of the kernel two-sample test of [m, width] and [n, width].

    The kernel is Gaussian, as wide as the median distance, on dimensions scaled to a standard deviation of 1.
    """
    both = np.concatenate([mine, theirs])
    std = both.std(0)
    both = (both / np.maximum(std, max(float(std.max()), 1e-12) * 1e-3)).astype(np.float32)
    squares = (both**2).sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clip(0)
    median = float(np.median(distances[np.triu_indices(len(both), 1)]))
    kernel = np.exp(-distances / max(median, 1e-12))
    sides = np.where(np.arange(len(both)) < len(mine), 1 / len(mine), -1 / len(theirs))
    drawn = np.stack([sides, *(rng.permutation(sides) for _ in range(permutations))], axis=1).astype(np.float32)
    return _p_value((drawn * (kernel @ drawn)).sum(0))


def _p_value(statistics: NDArray[np.floating]) -> float:
    """Return the share of statistics that are at least the first; a rounding error counts as equal."""
    return float((statistics >= statistics[0] * (1 - 1e-6)).mean())


def _too_few(reference: int, window: int) -> str:
    least = min(reference, window)
    if least >= MIN_PREDICTIONS:
        return ""
    side = "the reference" if reference <= window else "the window"
    return f"{side} has {least} predictions; the test needs {MIN_PREDICTIONS}"


def _no_common_backbone(before: dict[tuple[str, int], Moments], after: dict[tuple[str, int], Moments]) -> str:
    mine, theirs = (", ".join(sorted({model for model, _ in side})) or "none" for side in (before, after))
    return f"the features come from different backbones: {mine} before, {theirs} now"
