"""The arrival rate, and the load that it causes at each stage."""

import random

import pytest

from roadwork_serve.autoscaling.arrivals import ArrivalStats, DecayingCounter


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def feed(
    flow: ArrivalStats, clock: Clock, a_second: float, for_s: float, stages: list[str], rng: random.Random
) -> None:
    """Feed items of a Poisson process; each stage after the first sees half of the items of the one before it."""
    until = clock.now_s + for_s
    while (gap := rng.expovariate(a_second)) + clock.now_s < until:
        clock.now_s += gap
        flow.record_arrival()
        seen = [stages[0]]
        while len(seen) < len(stages) and rng.random() < 0.5:
            seen.append(stages[len(seen)])
        flow.record_exit(seen)
        for stage in seen:
            flow.record_inference(stage, 0.4, batch=2)
    clock.now_s = until


def test_the_rate_is_unbiased_from_the_first_seconds_on(clock: Clock):
    fading = DecayingCounter(60.0, clock)
    for _ in range(50):
        clock.now_s += 0.1
        fading.add()
    assert fading.rate == pytest.approx(10, rel=0.02)
    clock.now_s += 600
    assert fading.rate < 0.01


def test_load_is_rate_times_share_times_work(clock: Clock):
    flow, rng = ArrivalStats({"backbone": 1, "vlm": 4}, clock), random.Random(1)
    feed(flow, clock, 20, 600, ["backbone", "vlm"], rng)
    assert flow.rate == pytest.approx(20, rel=0.15)
    assert flow.share("backbone") == 1
    assert flow.share("vlm") == pytest.approx(0.5, abs=0.03)
    assert flow.item_s("backbone") == pytest.approx(0.2)
    assert flow.item_s("vlm") == pytest.approx(0.05), "four calls at once"
    assert flow.load("vlm") == pytest.approx(20 * 0.5 * 0.05, rel=0.2)


def test_a_burst_counts_within_seconds_and_noise_does_not(clock: Clock):
    flow, rng = ArrivalStats({"backbone": 1, "vlm": 1}, clock), random.Random(2)
    feed(flow, clock, 10, 600, ["backbone", "vlm"], rng)
    calm = flow.load("vlm")
    rates = []
    for _ in range(60):
        feed(flow, clock, 10, 5, ["backbone", "vlm"], rng)
        rates.append(flow.rate)
    assert sum(rate > 15 for rate in rates) <= 3
    feed(flow, clock, 30, 10, ["backbone", "vlm"], rng)
    assert flow.load("vlm") > 1.7 * calm, "the stage behind is known to be needed before a queue has grown"


def test_failed_stages_count_and_unneeded_stages_do_not(clock: Clock):
    flow = ArrivalStats({"backbone": 1, "vlm": 1}, clock)
    flow.record_exit(["backbone"])
    clock.now_s += 50
    assert flow.idle_s("vlm") == 50
    flow.record_exit(["backbone", "vlm", "unknown"])
    assert flow.idle_s("vlm") == 0
    assert flow.share("vlm") == pytest.approx(0.5, abs=0.05)


def test_a_stage_that_never_ran_has_no_load(clock: Clock):
    flow = ArrivalStats({"vlm": 1}, clock)
    assert (flow.share("vlm"), flow.item_s("vlm"), flow.load("vlm")) == (0.0, 0.0, 0.0)
