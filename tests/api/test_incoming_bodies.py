"""Limits on bodies while they arrive, in virtual time."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.incoming_bodies import BodyLimits, IncomingBodies, IncomingBody
from roadwork_serve.errors import Overloaded
from roadwork_serve.profiles.ingress_spec import IngressSpec
from tests.api.test_classify_routes import PROFILE, FakeService, problem
from tests.cascade import clock
from tests.cascade.clock import Clock

LIMITS = BodyLimits(at_once=4, per_caller=2, bytes_per_s=100, grace_s=5, crowded_grace_s=1, crowded_s=0.25)


def test_bytes_buy_time_at_the_least_rate():
    body = IncomingBodies(LIMITS).begin("a", 10.0)
    assert body.latest_s == 15
    body.arrive(300, 13.0)
    assert body.latest_s == 18
    body.arrive(1_000_000, 14.0)
    assert body.latest_s == 19, "never more than the grace"
    body.arrive(1, 19.0)
    assert body.latest_s == pytest.approx(19.01)


def test_a_new_body_takes_the_place_of_the_callers_slowest():
    bodies = IncomingBodies(LIMITS)
    slow, slower, other = bodies.begin("a", 0), bodies.begin("a", 0), bodies.begin("b", 0)
    slow.arrive(50, 0.5)
    slower.arrive(3, 0.5)
    new = bodies.begin("a", 2.0)
    assert not new.crowded and len(bodies) == 3
    assert (
        isinstance(slower.ended_by, Overloaded)
        and slower.ended_by.retry_after_s == 1
        and "3 bytes have arrived" in str(slower.ended_by)
    )
    assert slow.ended_by is None and other.ended_by is None
    for body in (slow, other, new):
        bodies.end(body)
    assert len(bodies) == 0


def test_fast_and_young_bodies_do_not_give_way():
    bodies = IncomingBodies(LIMITS)
    fast, young = bodies.begin("a", 0), bodies.begin("a", 9.5)
    fast.arrive(10_000, 1)
    new = bodies.begin("a", 10)
    assert (fast.ended_by, young.ended_by) == (None, None)
    assert new.crowded and new.latest_s == 10.25
    new.arrive(10_000, 10.1)
    assert new.latest_s == 10.25
    assert isinstance(new.error(), Overloaded)


def test_all_callers_share_the_places():
    bodies = IncomingBodies(LIMITS)
    for caller in "aabb":
        bodies.begin(caller, 0)
    assert bodies.begin("c", 0.5).crowded
    new = bodies.begin("c", 3)
    assert not new.crowded


def test_slow_bodies_end_and_others_are_answered():
    """256 clients send three bytes and fall silent; the places of requests stay free."""

    async def main(time: Clock) -> None:
        service = FakeService()
        service.profile = PROFILE.model_copy(update={"ingress": IngressSpec(default_deadline_ms=60_000)})
        transport = httpx.ASGITransport(http_app(service, Authenticator(None)))

        async def silent() -> AsyncIterator[bytes]:
            yield b"abc"
            await asyncio.sleep(36)

        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            slow = [asyncio.create_task(client.post("/v1/classify", content=silent())) for _ in range(256)]
            began_s = time.now
            while time.now < began_s + 8:
                assert (await client.post("/v1/classify", content=b"photo")).status_code == 200
                await asyncio.sleep(0.1)
            assert all(task.done() for task in slow)
            statuses = [task.result().status_code for task in slow]
            # Of the 128 with a place one gave way to a photo, which left a place for the next.
            assert set(statuses) == {408, 503} and statuses.count(408) == 127
            document = problem(
                next(task.result() for task in slow if task.result().status_code == 408), 408, "slow-upload"
            )
            assert "3 bytes have arrived" in document.detail
            busy = next(task.result() for task in slow if task.result().status_code == 503)
            assert busy.headers["retry-after"] == "1"
        assert len(service.seen) > 50 and set(service.seen) == {b"photo"}

    clock.run(main)


@pytest.mark.parametrize(
    ("addresses", "callers"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"], 2),
        (["192.0.2.7", "::ffff:192.0.2.7", "::ffff:192.0.2.8"], 2),
    ],
)
async def test_bodies_are_counted_by_network(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], callers: int
) -> None:
    begun: list[str] = []
    begin = IncomingBodies.begin

    def noted(self: IncomingBodies, caller: str, now_s: float) -> IncomingBody:
        begun.append(caller)
        return begin(self, caller, now_s)

    monkeypatch.setattr(IncomingBodies, "begin", noted)
    app = http_app(FakeService(), Authenticator(None))
    for address in addresses:
        transport = httpx.ASGITransport(app, client=(address, 4000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.post("/v1/classify", content=b"photo")).status_code == 200
    assert len(begun) == len(addresses) and len(set(begun)) == callers and begun[0] == begun[1]


def test_a_steady_body_is_read_to_its_end():
    async def main(time: Clock) -> None:
        service = FakeService()
        service.profile = PROFILE.model_copy(update={"ingress": IngressSpec(default_deadline_ms=60_000)})

        async def steady() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 2048
                await asyncio.sleep(1.4)

        transport = httpx.ASGITransport(http_app(service, Authenticator(None)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            assert (await client.post("/v1/classify", content=steady())).status_code == 200
        assert len(service.seen[0]) == 20 * 2048

    clock.run(main)


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch"])
def test_every_route_that_reads_a_body_has_the_limit(path: str):
    async def main(time: Clock) -> None:
        async def silent() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            await asyncio.sleep(36)

        service = FakeService()
        service.profile = PROFILE.model_copy(update={"ingress": IngressSpec(default_deadline_ms=60_000)})
        transport = httpx.ASGITransport(http_app(service, Authenticator(None)))
        kind = {"content-type": "multipart/form-data; boundary=x"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            began_s = time.now
            problem(await client.post(path, content=silent(), headers=kind), 408, "slow-upload")
            assert 4.9 < time.now - began_s < 5.5

    clock.run(main)
