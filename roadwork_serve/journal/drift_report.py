"""The drift of the latest journal entries against those before them."""

import time

from roadwork_serve.journal.drift import Drift, drift
from roadwork_serve.journal.duplicates import without_duplicates
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.store import Store

_HOUR_S = 3600.0


def recent_drift(
    store: Store, window_hours: float = 24.0, reference_hours: float = 168.0, now_s: float | None = None
) -> Drift:
    """Compare the entries of the last hours with those of the hours before, near-duplicates left out.

    Args:
        store: The journal.
        window_hours: Length of the window, which ends now.
        reference_hours: Length of the reference, which ends where the window begins.
        now_s: Seconds since 1970, the current time by default.
    """
    now = time.time() if now_s is None else now_s
    start = now - window_hours * _HOUR_S
    reference = store.find(Filter(since_s=start - reference_hours * _HOUR_S, until_s=start))
    window = store.find(Filter(since_s=start, until_s=now))
    return drift(without_duplicates(reference), without_duplicates(window))
