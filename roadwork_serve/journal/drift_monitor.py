"""How far the answers that go by are from those before them, as plain numbers, at the cost of a few additions each."""

from collections.abc import Iterable

from roadwork_serve.journal.record import JournalRow, PredictionRecord
from roadwork_serve.journal.traffic_stats import TrafficStats, mean_shift, psi

REFERENCE, WINDOW = 5000, 1000


class DriftMonitor:
    """Compares the last answers with a reference: those it was given, or else the first that come.

    reference: answers that become it. window: the most that are looked at as the last; at least half as many, once
    there have been that many.
    """

    def __init__(self, reference: int = REFERENCE, window: int = WINDOW) -> None:
        self._wanted, self._half = reference, max(window // 2, 1)
        self._reference, self._earlier, self._latest = TrafficStats(), TrafficStats(), TrafficStats()

    @classmethod
    def against(cls, reference: Iterable[JournalRow], window: int = WINDOW) -> "DriftMonitor":
        """A gauge that compares with these answers."""
        gauge = cls(0, window)
        for case in reference:
            gauge._reference.add(case.entry)
        return gauge

    def add(self, entry: PredictionRecord) -> None:
        """Count an answer."""
        if self._reference.answers < self._wanted:
            self._reference.add(entry)
            return
        if self._latest.answers >= self._half:
            self._earlier, self._latest = self._latest, TrafficStats()
        self._latest.add(entry)

    def numbers(self) -> dict[str, float]:
        """`reference` and `window`, how many answers; and, as soon as there are both, `exits`, `scores.STAGE` (the
        population stability index, see `tally.stability`) and `features` (how far the means lie apart, in deviations).
        """
        mine, theirs = self._reference, self._earlier.joined(self._latest)
        numbers = {"reference": float(mine.answers), "window": float(theirs.answers)}
        if not mine.answers or not theirs.answers:
            return numbers
        ways = mine.exits.keys() | theirs.exits.keys()
        numbers["exits"] = psi((mine.exits[way] for way in ways), (theirs.exits[way] for way in ways))
        for stage in sorted(mine.scores.keys() & theirs.scores.keys()):
            numbers[f"scores.{stage}"] = psi(mine.scores[stage], theirs.scores[stage])
        common = mine.moments.keys() & theirs.moments.keys()
        if common:
            kind = max(common, key=lambda kind: (theirs.moments[kind].count, kind))
            numbers["features"] = mean_shift(mine.moments[kind], theirs.moments[kind])
        return numbers
