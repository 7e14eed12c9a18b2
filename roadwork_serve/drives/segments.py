"""Segments: the stretches of a drive with road work, from the scores of its frames."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roadwork_serve.drives.smoothing import Floats, Smoothed, SmoothingModel, smooth

ENTER, LEAVE = 0.6, 0.4  # posteriors at which a segment begins to count, and at which it ends
_SHOWN = 6  # things of a segment that are named


@dataclass(frozen=True, slots=True)
class FrameScore:
    """The score of a frame, or of a short clip."""

    #: Time since the start of the drive in seconds.
    time_s: float
    #: Probability of road work; None for a frame that looks like the one before it and was not scored.
    probability: float | None
    #: What was recognized, such as `cone` or `sign: ROAD CLOSED`.
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a drive with road work."""

    #: Seconds since the start of the drive.
    begin_s: float
    end_s: float
    #: Probability that there is road work anywhere in it.
    probability: float
    #: Time of the frame that shows it best.
    best_s: float
    #: What was recognized, the most frequent first.
    seen: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.end_s - self.begin_s


def standing_clock(scores: Sequence[FrameScore]) -> Floats:
    """Return the times of the frames on a clock that stops while the car stands still [n]."""
    times = np.array([each.time_s for each in scores])
    moved = np.array([each.probability is not None for each in scores[1:]], dtype=float)
    return np.concatenate([times[:1], times[:1] + np.cumsum(np.diff(times) * moved)])


def smoothed_scores(scores: Sequence[FrameScore], model: SmoothingModel) -> Smoothed:
    """Return the posteriors of frames, which are in the order of their times."""
    probabilities = np.array([np.nan if each.probability is None else each.probability for each in scores])
    return smooth(model, probabilities, standing_clock(scores))


def find_segments(
    scores: Sequence[FrameScore], model: SmoothingModel, enter: float = ENTER, leave: float = LEAVE
) -> list[Segment]:
    """Return the segments with road work.

    A segment is a run of frames whose posterior is at least `leave`, one of them at least `enter`, so that a posterior
    that wavers around one threshold does not cut it into pieces.
    """
    smoothed = smoothed_scores(scores, model)
    runs = _runs(smoothed.posterior >= leave)
    return [
        _segment(scores, smoothed, first, last, leave)
        for first, last in runs
        if smoothed.posterior[first : last + 1].max() >= enter
    ]


def doubtful_times(scores: Sequence[FrameScore], model: SmoothingModel, low: float, high: float) -> list[float]:
    """Return the times of the middles of runs whose posterior is in doubt: above `low` and below `high`."""
    smoothed = smoothed_scores(scores, model)
    doubtful = (smoothed.posterior > low) & (smoothed.posterior < high)
    return [scores[(first + last) // 2].time_s for first, last in _runs(doubtful)]


def _runs(wanted: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def _segment(scores: Sequence[FrameScore], smoothed: Smoothed, first: int, last: int, leave: float) -> Segment:
    inside = scores[first : last + 1]
    best = max(inside, key=lambda each: -1.0 if each.probability is None else each.probability)
    seen = Counter(thing for each in inside for thing in each.seen)
    return Segment(
        begin_s=_crossing(scores, smoothed.posterior, first, first - 1, leave),
        end_s=_crossing(scores, smoothed.posterior, last, last + 1, leave),
        probability=smoothed.any_works(first, last),
        best_s=best.time_s,
        seen=tuple(thing for thing, _ in seen.most_common(_SHOWN)),
    )


def _crossing(scores: Sequence[FrameScore], posterior: Floats, inside: int, outside: int, level: float) -> float:
    """Return the time at which the posterior crosses a level between two neighbours."""
    if not 0 <= outside < len(scores):
        return scores[inside].time_s
    here, there = posterior[inside], posterior[outside]
    share = (here - level) / (here - there)
    return float(scores[inside].time_s + share * (scores[outside].time_s - scores[inside].time_s))
