"""Drift of live traffic against earlier traffic, at the cost of a few additions for each prediction."""

from collections.abc import Iterable

from roadwork_serve.journal.record import JournalRow, PredictionRecord
from roadwork_serve.journal.traffic_stats import TrafficStats, mean_shift, psi

REFERENCE, WINDOW = 5000, 1000


class DriftMonitor:
    """Compares the latest predictions with a reference: given ones, or else the first that arrive."""

    def __init__(self, reference: int = REFERENCE, window: int = WINDOW) -> None:
        """Start without data.

        Args:
            reference: number of predictions that become the reference.
            window: most predictions that count as the latest; at least half as many, once that many have arrived.
        """
        self._reference_size, self._half = reference, max(window // 2, 1)
        self._reference, self._earlier, self._latest = TrafficStats(), TrafficStats(), TrafficStats()

    @classmethod
    def with_reference(cls, reference: Iterable[JournalRow], window: int = WINDOW) -> "DriftMonitor":
        """Return a monitor that compares with these rows."""
        monitor = cls(0, window)
        for row in reference:
            monitor._reference.add(row.prediction)
        return monitor

    def add(self, prediction: PredictionRecord) -> None:
        """Count a prediction."""
        if self._reference.predictions < self._reference_size:
            self._reference.add(prediction)
            return
        if self._latest.predictions >= self._half:
            self._earlier, self._latest = self._latest, TrafficStats()
        self._latest.add(prediction)

    def values(self) -> dict[str, float]:
        """Return the drift by name.

        `reference` and `window` are numbers of predictions. As soon as there are both: `exits` and `scores.STAGE`, the
        population stability index (see `traffic_stats.psi`), and `features`, the distance of the means in standard
        deviations.
        """
        reference, window = self._reference, self._earlier.merged(self._latest)
        found = {"reference": float(reference.predictions), "window": float(window.predictions)}
        if not reference.predictions or not window.predictions:
            return found
        exits = reference.exits.keys() | window.exits.keys()
        found["exits"] = psi((reference.exits[each] for each in exits), (window.exits[each] for each in exits))
        for stage in sorted(reference.scores.keys() & window.scores.keys()):
            found[f"scores.{stage}"] = psi(reference.scores[stage], window.scores[stage])
        common = reference.moments.keys() & window.moments.keys()
        if common:
            kind = max(common, key=lambda kind: (window.moments[kind].count, kind))
            found["features"] = mean_shift(reference.moments[kind], window.moments[kind])
        return found
