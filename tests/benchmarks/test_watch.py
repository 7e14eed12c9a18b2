"""Events compared with the truth."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from benchmarks.watch import PERIOD_S, judge, periods
from roadwork_serve.streams.events import Event

TRUTH = [(10.0, 40.0), (70.0, 100.0)]


def event(kind: str, at_s: float, name: str) -> tuple[float, Event]:
    at = datetime.fromtimestamp(at_s, UTC)
    found = {"id": name, "event": kind, "source": "gate", "at": at, "began_at": at, "probability": 0.9, "highest": 0.9}
    return at_s, Event.model_validate(found)


WHOLE = [event("began", 12, "a"), event("ended", 43, "a"), event("began", 71, "b"), event("ended", 101.5, "b")]


def test_times_are_apart_and_end_in_time() -> None:
    found = periods(900)
    assert len(found) == pytest.approx(13, abs=2) and found[-1][1] < 900 - 15
    for (_, end_s), (begin_s, _) in pairwise(found):
        assert PERIOD_S[0] <= begin_s - end_s <= PERIOD_S[1]


def test_events_and_delays() -> None:
    assert judge(TRUTH, WHOLE, []) == (2, 0, [2, 3, 1, 1.5])
    assert judge(TRUTH, WHOLE, [39.5, 65.0]) == (2, 0, [2, 1.5]), "changes in a disturbance have no delay"


@pytest.mark.parametrize(
    ("events", "found", "repeated"),
    [
        (WHOLE[:3], 1, 0),  # the end is missing
        (WHOLE[2:], 1, 0),
        ([*WHOLE, event("began", 50, "c"), event("ended", 55, "c")], 2, 2),
        ([WHOLE[0], event("ended", 20, "a"), event("began", 22, "c"), event("ended", 43, "c"), *WHOLE[2:]], 2, 2),
        ([], 0, 0),
    ],
)
def test_lost_and_repeated_events_count(events: list[tuple[float, Event]], found: int, repeated: int) -> None:
    assert judge(TRUTH, events, [])[:2] == (found, repeated)
