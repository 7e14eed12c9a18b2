from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.latency import LatencyEstimator


def test_nothing_is_said_of_few_calls():
    pace = LatencyEstimator()
    for _ in range(4):
        pace.record(1, 0.1)
    assert pace.p90_s(1) is None
    assert pace.mean_s(1) is None
    pace.record(1, 0.1)
    assert pace.p90_s(1) == 0.1


def test_sizes_are_told_apart_and_the_nearest_speaks_for_those_unknown():
    pace = LatencyEstimator()
    for _ in range(5):
        pace.record(1, 0.1)
        pace.record(16, 1.0)
    assert (pace.p90_s(1), pace.p90_s(2), pace.p90_s(8), pace.p90_s(16), pace.p90_s(64)) == (0.1, 0.1, 0.1, 1.0, 1.0)


def test_one_slow_call_in_ten_does_not_count_two_do():
    pace = LatencyEstimator()
    for took_s in [0.1] * 9 + [5.0]:
        pace.record(1, took_s)
    assert pace.p90_s(1) == 0.1
    pace.record(1, 5.0)
    assert pace.p90_s(1) == 5.0


def test_a_call_that_was_given_up_can_only_raise_the_estimate():
    pace = LatencyEstimator()
    for _ in range(5):
        pace.record(1, 1.0)
    pace.record(1, 0.5, whole=False)
    assert pace.mean_s(1) == 1.0
    for _ in range(5):
        pace.record(1, 3.0, whole=False)
    assert pace.p90_s(1) == 3.0


def test_old_calls_are_forgotten():
    pace = LatencyEstimator()
    with mock.patch("time.monotonic", lambda: 1000.0):
        for _ in range(5):
            pace.record(1, 9.0)
        assert pace.p90_s(1) == 9.0
    with mock.patch("time.monotonic", lambda: 1031.0):
        assert pace.p90_s(1) is None


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1), st.integers(1, 64))
def test_an_estimate_is_one_of_the_times_seen_and_no_less_than_most(calls, size):
    pace = LatencyEstimator()
    for each, took_s in calls:
        pace.record(each, took_s)
    p90_s, mean_s = pace.p90_s(size), pace.mean_s(size)
    assert (p90_s is None) == (mean_s is None)
    if p90_s is not None:
        assert p90_s in [took_s for _, took_s in calls]
        assert min(took_s for _, took_s in calls) <= p90_s <= max(took_s for _, took_s in calls)
