from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.circuit_breaker import FAILURES, MAX_COOLDOWN_S, CircuitBreaker
from tests.cascade import clock
from tests.cascade.clock import Clock


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    told = [breaker.failed() for _ in range(FAILURES)]
    assert told == [False] * (FAILURES - 1) + [True]
    return breaker


def test_it_opens_after_failures_in_a_row_alone():
    breaker = CircuitBreaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.failed()
        breaker.answered()
    assert breaker.state == "closed"
    assert opened().state == "open"


def test_after_its_rest_one_call_passes_and_decides():
    async def main(time: Clock) -> None:
        breaker = opened()
        assert not breaker.lets_pass()
        time.now += 1.5
        assert breaker.state == "half_open"
        assert breaker.lets_pass()
        breaker.began()
        assert not breaker.lets_pass()
        breaker.abandoned()  # whoever asked hung up: the next may try
        assert breaker.lets_pass()
        breaker.began()
        breaker.answered()
        assert breaker.state == "closed"

    clock.run(main)


def test_rests_get_longer_up_to_a_limit():
    async def main(time: Clock) -> None:
        breaker = opened()
        rests = []
        for _ in range(8):
            rests.append(round(breaker.rests_s(), 3))
            time.now += breaker.rests_s() + 0.001
            breaker.began()
            assert breaker.failed()
        assert rests == [1, 2, 4, 8, 16, MAX_COOLDOWN_S, MAX_COOLDOWN_S, MAX_COOLDOWN_S]

    clock.run(main)


def test_calls_that_were_in_flight_when_it_opened_do_not_lengthen_its_rest():
    async def main(time: Clock) -> None:
        breaker = opened()
        before_s = breaker.rests_s()
        assert not breaker.failed()
        assert breaker.rests_s() == before_s

    clock.run(main)


@given(st.lists(st.sampled_from(["began", "answered", "failed", "abandoned", "wait"])))
def test_whatever_happens_it_lets_a_call_pass_again_within_its_longest_rest(events):
    async def main(time: Clock) -> None:
        breaker = CircuitBreaker()
        for event in events:
            if event == "wait":
                time.now += 5.0
            else:
                getattr(breaker, event)()
        breaker.abandoned()  # no call is in flight any more
        time.now += MAX_COOLDOWN_S
        assert breaker.lets_pass()
        breaker.answered()
        assert breaker.state == "closed"

    clock.run(main)
