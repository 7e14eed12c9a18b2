import pytest

from roadwork_serve.api.admission import Admission
from roadwork_serve.errors import Overloaded
from tests.cascade import clock
from tests.cascade.clock import Clock


def test_requests_and_bytes_are_bounded_and_released():
    admission = Admission(2, 100)
    admission.enter()
    admission.check()
    admission.enter()
    for attempt in (admission.enter, admission.check):
        with pytest.raises(Overloaded, match="2 requests are in flight; come back in 1 s"):
            attempt()
    with admission.reservation() as one, admission.reservation() as two:
        one.reserve_bytes(60)
        two.reserve_bytes(40)
        with pytest.raises(Overloaded, match="hold 100 of 100 bytes"):
            two.reserve_bytes(1)
    admission.leave()
    admission.leave()
    assert (admission.in_flight, admission.reserved_bytes) == (0, 0)
    with admission.reservation() as whole:
        whole.reserve_bytes(100)


def test_the_retry_time_follows_the_rate_of_finished_requests():
    async def main(time: Clock) -> None:
        admission = Admission(20, 100)
        for _ in range(20):
            admission.enter()
        for _ in range(10):  # two a second
            time.now += 0.5
            admission.leave()
            admission.enter()
        time.now += 0.5
        with pytest.raises(Overloaded) as caught:
            admission.enter()
        assert caught.value.retry_after_s == pytest.approx(10.0)
        time.now += 60
        assert admission.drain_s() == 1.0, "calls of a minute ago do not count"

    clock.run(main)
