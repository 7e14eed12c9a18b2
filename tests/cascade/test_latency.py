import math
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.latency import LatencyEstimator


def test_few_calls_give_no_estimate():
    latency = LatencyEstimator()
    for _ in range(4):
        latency.record(1, 0.1)
    assert latency.p90_s(1) is None
    latency.record(1, 0.1)
    assert latency.p90_s(1) == 0.1


def test_sizes_are_separate_and_unknown_ones_use_the_nearest():
    latency = LatencyEstimator()
    for _ in range(5):
        latency.record(1, 0.1)
        latency.record(16, 1.0)
    assert (latency.p90_s(1), latency.p90_s(2), latency.p90_s(8), latency.p90_s(16), latency.p90_s(64)) == (
        0.1,
        0.1,
        0.1,
        1.0,
        1.0,
    )


def test_one_slow_call_in_ten_does_not_count_two_do():
    latency = LatencyEstimator()
    for took_s in [0.1] * 9 + [5.0]:
        latency.record(1, took_s)
    assert latency.p90_s(1) == 0.1
    latency.record(1, 5.0)
    assert latency.p90_s(1) == 5.0


def test_a_cancelled_call_can_only_raise_the_estimate():
    latency = LatencyEstimator()
    for _ in range(5):
        latency.record(1, 1.0)
    for _ in range(64):
        latency.record(1, 0.5, completed=False)
    assert latency.p90_s(1) == 1.0
    for _ in range(5):
        latency.record(1, 3.0, completed=False)
    assert latency.p90_s(1) == 3.0


def test_old_calls_are_forgotten():
    latency = LatencyEstimator()
    with mock.patch("time.monotonic", lambda: 1000.0):
        for _ in range(5):
            latency.record(1, 9.0)
        assert latency.p90_s(1) == 9.0
    with mock.patch("time.monotonic", lambda: 1031.0):
        assert latency.p90_s(1) is None


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 10)), min_size=1, max_size=200))
def test_the_estimate_is_the_percentile_of_the_last_calls_of_half_a_minute(calls: list[tuple[float, float]]) -> None:
    latency, now_s = LatencyEstimator(), 0.0
    ended: list[tuple[float, float]] = []
    for wait_s, took_s in calls:
        now_s += wait_s / 10
        with mock.patch("time.monotonic", lambda now_s=now_s: now_s):
            latency.record(1, took_s)
            ended.append((now_s, took_s))
            known = sorted(took_s for end_s, took_s in ended[-64:] if end_s >= now_s - 30.0)
            assert latency.p90_s(1) == (known[math.ceil(0.9 * len(known)) - 1] if len(known) >= 5 else None)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1), st.integers(1, 64))
def test_an_estimate_is_one_of_the_times_seen(calls: list[tuple[int, float]], size: int) -> None:
    latency = LatencyEstimator()
    for each, took_s in calls:
        latency.record(each, took_s)
    p90_s = latency.p90_s(size)
    assert p90_s is None or p90_s in [took_s for _, took_s in calls]
