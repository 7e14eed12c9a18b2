from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.circuit_breaker import FAILURES, MAX_COOLDOWN_S, CircuitBreaker
from tests.cascade import clock
from tests.cascade.clock import Clock


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    opened_by = [breaker.on_failure() for _ in range(FAILURES)]
    assert opened_by == [False] * (FAILURES - 1) + [True]
    return breaker


def test_it_opens_only_after_failures_in_a_row():
    breaker = CircuitBreaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.on_failure()
        breaker.on_success()
    assert breaker.state == "closed"
    assert opened().state == "open"


def test_after_the_cooldown_one_call_passes_and_decides():
    async def main(time: Clock) -> None:
        breaker = opened()
        assert not breaker.allow()
        time.now += 1.5
        assert breaker.state == "half_open"
        assert breaker.allow()
        breaker.on_start()
        assert not breaker.allow()
        breaker.on_cancel()  # the caller hung up: the next call may test it
        assert breaker.allow()
        breaker.on_start()
        breaker.on_success()
        assert breaker.state == "closed"

    clock.run(main)


def test_cooldowns_get_longer_up_to_a_limit():
    async def main(time: Clock) -> None:
        breaker = opened()
        cooldowns_s = []
        for _ in range(8):
            cooldowns_s.append(round(breaker.cooldown_left_s(), 3))
            time.now += breaker.cooldown_left_s() + 0.001
            breaker.on_start()
            assert breaker.on_failure()
        assert cooldowns_s == [1, 2, 4, 8, 16, MAX_COOLDOWN_S, MAX_COOLDOWN_S, MAX_COOLDOWN_S]

    clock.run(main)


def test_calls_that_were_in_flight_when_it_opened_do_not_lengthen_the_cooldown():
    async def main(time: Clock) -> None:
        breaker = opened()
        before_s = breaker.cooldown_left_s()
        assert not breaker.on_failure()
        assert breaker.cooldown_left_s() == before_s

    clock.run(main)


@given(st.lists(st.sampled_from(["on_start", "on_success", "on_failure", "on_cancel", "wait"])))
def test_after_any_events_it_allows_a_call_within_the_longest_cooldown(events):
    async def main(time: Clock) -> None:
        breaker = CircuitBreaker()
        for event in events:
            if event == "wait":
                time.now += 5.0
            else:
                getattr(breaker, event)()
        breaker.on_cancel()  # no call is in flight any more
        time.now += MAX_COOLDOWN_S
        assert breaker.allow()
        breaker.on_success()
        assert breaker.state == "closed"

    clock.run(main)
