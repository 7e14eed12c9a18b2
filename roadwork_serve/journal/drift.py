"""Whether answers have become other than they were: where they leave, what stages say, what the pictures are like."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.traffic_stats import Extract, Moments, mean_shift, psi

EXITS, FEATURES = "exits", "features"
FEWEST = 30  # on either side; with less nothing is said
_PERMUTATIONS = 999


@dataclass(frozen=True, slots=True)
class Shift:
    """One thing that may have changed.

    what: `exits`, `features`, or the stage whose scores they are; `answer` for the posterior answered with.
    size: of the features how far their means lie apart, in deviations; of all else the population stability index.
    p: how likely so much is where nothing has changed; None where that cannot be told, and why is in `untold`.
    reference, window: answers on either side.
    """

    what: str
    size: float
    p: float | None
    reference: int
    window: int
    untold: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """reference, window: answers on either side. shifts: everything that was looked at."""

    reference: int
    window: int
    shifts: tuple[Shift, ...]

    def found(self, level: float = 0.01) -> tuple[Shift, ...]:
        """The shifts that chance does not explain: that any is found where nothing has changed is at most as likely as
        the level (Holm 1979)."""
        told = sorted((shift for shift in self.shifts if shift.p is not None), key=lambda shift: shift.p or 0)
        kept: list[Shift] = []
        for at, shift in enumerate(told):
            if shift.p is None or shift.p * (len(told) - at) > level:
                break
            kept.append(shift)
        return tuple(kept)


def drift(
    reference: Iterable[JournalRow], window: Iterable[JournalRow], permutations: int = _PERMUTATIONS, seed: int = 0
) -> Drift:
    """How the answers of a window differ from those of a reference. Holds no more than a few thousand numbers of each.

    It takes answers for independent: frames of one drive are not, so leave out what repeats (`duplicates.firsts`).
    """
    before, after = Extract(), Extract()
    for side, cases in ((before, reference), (after, window)):
        for case in cases:
            side.add(case.entry)
    rng = np.random.default_rng(seed)
    shifts = [_exits(before, after, permutations, rng)]
    shifts += [_scores(stage, before, after) for stage in sorted(before.scores.keys() | after.scores.keys())]
    if before.vectors or after.vectors:
        shifts.append(_features(before, after, permutations, rng))
    return Drift(before.tally.answers, after.tally.answers, tuple(shifts))


def _exits(before: Extract, after: Extract, permutations: int, rng: np.random.Generator) -> Shift:
    """Chi-square over stages and reasons, its p by drawing tables with the same margins."""
    ways = sorted(before.tally.exits.keys() | after.tally.exits.keys())
    mine, theirs = ([side.tally.exits[way] for way in ways] for side in (before, after))
    sizes = sum(mine), sum(theirs)
    few = _too_few(*sizes)
    p = None
    if not few:
        both = np.array(mine) + np.array(theirs)
        drawn = rng.multivariate_hypergeometric(both, sizes[0], size=permutations)
        expected = both * (sizes[0] / sum(sizes))
        squares = ((np.vstack([mine, drawn]) - expected) ** 2 / expected).sum(1)
        p = _share(squares)
    return Shift(EXITS, psi(mine, theirs) if ways else 0.0, p, *sizes, few)


def _scores(stage: str, before: Extract, after: Extract) -> Shift:
    """Kolmogorov and Smirnov's test; where scores are equal it errs on the side of finding nothing."""
    bins = [side.tally.scores.get(stage, []) for side in (before, after)]
    sizes = sum(bins[0]), sum(bins[1])
    few = _too_few(*sizes)
    p = None
    if not few:
        p = kolmogorov(*(np.array(side.scores[stage].ordered()) for side in (before, after)))
    blank = [0] * max(map(len, bins))
    return Shift(stage, psi(bins[0] or blank, bins[1] or blank), p, *sizes, few)


def kolmogorov(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """The p-value of the two-sample test, by its limit with Stephens' correction for small samples (1970)."""
    mine, theirs = np.sort(mine), np.sort(theirs)
    everything = np.concatenate([mine, theirs])
    shares = (np.searchsorted(some, everything, "right") / len(some) for some in (mine, theirs))
    distance = float(np.abs(np.subtract(*shares)).max())
    root = math.sqrt(len(mine) * len(theirs) / len(everything))
    by = (root + 0.12 + 0.11 / root) * distance
    if by < 0.2:  # the series converges too slowly there, and is 1
        return 1.0
    return min(1.0, max(0.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * by) ** 2) for k in range(1, 101))))


def _features(before: Extract, after: Extract, permutations: int, rng: np.random.Generator) -> Shift:
    """Maximum mean discrepancy (Gretton et al. 2012), its p by exchanging answers between the sides."""
    moments = before.tally.moments, after.tally.moments
    common = moments[0].keys() & moments[1].keys()
    if not common:
        mine, theirs = (sum(held.count for held in side.values()) for side in moments)
        return Shift(FEATURES, 0.0, None, mine, theirs, _other(*moments))
    kind = max(common, key=lambda kind: (min(side[kind].count for side in moments), kind))
    sizes = moments[0][kind].count, moments[1][kind].count
    few = _too_few(*sizes)
    p = None
    if not few:
        mine, theirs = (np.stack(side.vectors[kind].ordered()) for side in (before, after))
        p = maximum_mean_discrepancy(mine, theirs, permutations, rng)
    return Shift(FEATURES, mean_shift(*(side[kind] for side in moments)), p, *sizes, few)


def maximum_mean_discrepancy(
    mine: NDArray[np.float32], theirs: NDArray[np.float32], permutations: int, rng: np.random.Generator
) -> float:
    """The p-value of the kernel two-sample test: [m, width] and [n, width], a Gaussian kernel as wide as the median
    distance, of dimensions scaled to a deviation of 1."""
    both = np.concatenate([mine, theirs])
    spread = both.std(0)
    both = (both / np.maximum(spread, max(float(spread.max()), 1e-12) * 1e-3)).astype(np.float32)
    squares = (both**2).sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clip(0)
    median = float(np.median(distances[np.triu_indices(len(both), 1)]))
    kernel = np.exp(-distances / max(median, 1e-12))
    sides = np.where(np.arange(len(both)) < len(mine), 1 / len(mine), -1 / len(theirs))
    drawn = np.stack([sides, *(rng.permutation(sides) for _ in range(permutations))], axis=1).astype(np.float32)
    return _share((drawn * (kernel @ drawn)).sum(0))


def _share(statistics: NDArray[np.floating]) -> float:
    """The p-value of the first among those that chance made; a trifle of rounding counts as equal."""
    return float((statistics >= statistics[0] * (1 - 1e-6)).mean())


def _too_few(reference: int, window: int) -> str:
    least = min(reference, window)
    if least >= FEWEST:
        return ""
    where = "the reference" if reference <= window else "the window"
    return f"{where} has {least}; from {FEWEST} on something can be told"


def _other(before: dict[tuple[str, int], Moments], after: dict[tuple[str, int], Moments]) -> str:
    mine, theirs = (", ".join(sorted({model for model, _ in side})) or "none" for side in (before, after))
    return f"they are of different backbones: {mine} before, {theirs} now"
