"""The rate at the front and what it means for the stages behind it."""

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
    """Items by a Poisson process; every stage after the first sees half of what the one before it sees."""
    until = clock.now_s + for_s
    while (gap := rng.expovariate(a_second)) + clock.now_s < until:
        clock.now_s += gap
        flow.came()
        seen = [stages[0]]
        while len(seen) < len(stages) and rng.random() < 0.5:
            seen.append(stages[len(seen)])
        flow.left(seen)
        for stage in seen:
            flow.judged(stage, 0.4, batch=2)
    clock.now_s = until


def test_a_rate_is_right_from_the_first_seconds_on(clock: Clock):
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


def test_a_burst_is_believed_within_seconds_and_luck_is_not(clock: Clock):
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


def test_who_could_not_be_shown_counts_and_who_was_not_wanted_does_not(clock: Clock):
    flow = ArrivalStats({"backbone": 1, "vlm": 1}, clock)
    flow.left(["backbone"])
    clock.now_s += 50
    assert flow.quiet_s("vlm") == 50
    flow.left(["backbone", "vlm", "unknown"])
    assert flow.quiet_s("vlm") == 0
    assert flow.share("vlm") == pytest.approx(0.5, abs=0.05)


def test_nothing_is_known_of_a_stage_that_was_never_asked(clock: Clock):
    flow = ArrivalStats({"vlm": 1}, clock)
    assert (flow.share("vlm"), flow.item_s("vlm"), flow.load("vlm")) == (0.0, 0.0, 0.0)
