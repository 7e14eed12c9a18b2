"""Every kind of bad call gets its documented status, and a good one right after it is answered."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from roadwork_serve.errors import (
    BrokenMedia,
    DeadlineExceeded,
    MediaTooLarge,
    NoOpinion,
    NotReady,
    Overloaded,
    StageFailed,
    UnsupportedMedia,
)
from roadwork_serve.miner.axon import Axon, Limits
from roadwork_serve.miner.blacklist import BlacklistConfig
from roadwork_serve.miner.metrics import MinerMetrics
from roadwork_serve.miner.priority import PrioritySemaphore
from tests.miner.calls import (
    BANNED,
    NEIGHBOUR,
    PICTURE,
    POOR,
    STRANGER,
    VALIDATOR,
    FakeCascade,
    axon,
    body,
    headers,
)


@asynccontextmanager
async def client(to: Axon) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(to.app()), base_url="http://miner") as opened:
        yield opened


async def post(
    to: httpx.AsyncClient,
    call_headers: list[tuple[str, str]] | None = None,
    content: Any = None,
    route: str = "ImageSynapse",
) -> httpx.Response:
    return await to.post(
        f"/{route}",
        headers=headers(route) if call_headers is None else call_headers,
        content=body() if content is None else content,
    )


async def well(to: httpx.AsyncClient) -> None:
    """Check that a good call is answered within a second."""
    began = time.monotonic()
    reply = await post(to)
    assert (reply.status_code, reply.json()["prediction"]) == (200, 0.9)
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("route", ["ImageSynapse", "ExtendedImageSynapse"])
async def test_a_call_is_answered_with_the_probability_and_without_the_image(route: str) -> None:
    cascade = FakeCascade()
    async with client(axon(cascade)) as to:
        reply = await post(to, content=body(testnet_label=1), route=route)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert (answer["prediction"], answer["image"], answer["testnet_label"], answer["name"]) == (0.9, "", 1, route)
    assert ("model_url" in answer) == (route == "ExtendedImageSynapse")
    assert reply.headers["bt_header_axon_status_code"] == "200"
    assert float(reply.headers["bt_header_axon_process_time"]) < 1
    ((shown, deadline_ms),) = cascade.asked
    assert shown == PICTURE and 8000 < deadline_ms <= 8500


NEEDED = [name for name, _ in headers() if not re.search("_ip|_port|_size|content-type", name)]


def without(name: str) -> list[tuple[str, str]]:
    return headers(**{name: None})


def twice(name: str) -> list[tuple[str, str]]:
    call_headers = headers()
    return [*call_headers, *[(each, value) for each, value in call_headers if each == name]]


def wrong(status: int, message: str, name: str, *values: str) -> list[Any]:
    """Return calls with a changed header."""
    return [
        pytest.param(partial(headers, **{name: text}), status, message, id=f"{name} {text[:16]}") for text in values
    ]


BAD_HEADERS = [
    *[pytest.param(partial(without, name), 400, name, id=f"no {name}") for name in NEEDED],
    *[pytest.param(partial(twice, name), 400, "twice", id=f"{name} twice") for name in NEEDED],
    *wrong(400, "name is not ImageSynapse", "name", "ExtendedImageSynapse", "Synapse"),
    *wrong(400, "computed_body_hash", "computed_body_hash", "00" * 32, "none"),
    *wrong(400, "timeout", "timeout", "nan", "inf", "0", "-1", "soon", "1e400", "9" * 40, "1_0", "+9"),
    *wrong(
        400, "version", "bt_header_dendrite_version", "7001999", "10.5.0", "-1", "9" * 13, "10_005_000", "+10005000"
    ),
    *wrong(400, "nonce", "bt_header_dendrite_nonce", "-1", "1.5", "now", "9" * 20, "1_764", "+1764"),
    *wrong(400, "ss58", "bt_header_dendrite_hotkey", "5Cz", "0" * 48, "../../etc/passwd"),
    *wrong(400, "ss58", "bt_header_axon_hotkey", "me"),
    *wrong(400, "signature", "bt_header_dendrite_signature", "0x00", "f" * 128, "0x" + "g" * 128),
    *wrong(400, "uuid", "bt_header_dendrite_uuid", "a.b", "u" * 65, "a b"),
    *wrong(401, "signature", "bt_header_dendrite_signature", "0x" + "ab" * 64),
    *wrong(401, "signature", "bt_header_dendrite_uuid", "uuid-2"),
    *wrong(403, "stake", "bt_header_dendrite_hotkey", POOR.ss58_address),
    pytest.param(partial(headers, to=STRANGER.ss58_address), 401, "another hotkey", id="another receiver"),
    pytest.param(partial(headers, key=STRANGER), 403, "not registered", id="a stranger"),
    pytest.param(partial(headers, key=NEIGHBOUR), 403, "permit", id="no validator"),
    pytest.param(partial(headers, key=POOR), 403, "100 is needed", id="little stake"),
    pytest.param(partial(headers, key=BANNED), 403, "deny-list", id="denied"),
]


@pytest.mark.parametrize(("make_headers", "status", "message"), BAD_HEADERS)
async def test_invalid_headers_are_rejected_before_the_body_is_read(
    make_headers: Callable[[], list[tuple[str, str]]], status: int, message: str
) -> None:
    cascade = FakeCascade()
    async with client(axon(cascade)) as to:
        reply = await post(to, make_headers())
        assert (reply.status_code, message in reply.json()["message"]) == (status, True), reply.text
        assert not cascade.asked
        await well(to)


@pytest.mark.parametrize(
    ("age_s", "waits", "status"),
    [
        (12.5, "9", 200),
        (13.5, "9", 401),
        (15.5, "3600", 200),
        (16.5, "3600", 401),
        (-59.0, "9", 200),
        (-62.0, "9", 401),
    ],
)
async def test_old_and_future_nonces_are_rejected_for_any_timeout(age_s: float, waits: str, status: int) -> None:
    async with client(axon(FakeCascade())) as to:
        reply = await post(to, headers(age_s=age_s, timeout=waits))
        assert reply.status_code == status
        if status == 401:
            assert "clock" in reply.json()["message"]


async def test_a_call_is_answered_once_and_nonces_must_increase() -> None:
    async with client(axon(FakeCascade())) as to:
        call_headers, older = headers(), headers(age_s=1)
        assert (await post(to, call_headers)).status_code == 200
        for each in (call_headers, older):
            reply = await post(to, each)
            assert (reply.status_code, reply.headers["bt_header_axon_status_message"]) == (401, "replay")
        await well(to)


async def test_a_forged_signature_does_not_use_up_the_nonce() -> None:
    async with client(axon(FakeCascade())) as to:
        call_headers = headers()
        forged = [(name, "0x" + "ab" * 64 if name.endswith("signature") else value) for name, value in call_headers]
        assert (await post(to, forged)).status_code == 401
        assert (await post(to, call_headers)).status_code == 200


BAD_BODIES = [
    pytest.param(b"", 422, "not valid JSON", id="empty"),
    pytest.param(b"\xff\xfe\x00", 422, "not valid JSON", id="no text"),
    pytest.param(b"[" * 4000, 422, "not valid JSON", id="deeply nested"),
    pytest.param(b'{"a":' * 2000, 422, "not valid JSON", id="deeply nested objects"),
    pytest.param(b"[" * 100_000, 422, "too many fields", id="nested beyond measure"),
    pytest.param(b'{"a":[' + b"[]," * 300_000 + b'[]],"image":"AAAA"}', 422, "too many fields", id="a bomb of lists"),
    pytest.param(body(b"\x00\x00\x00\x18ftypmp42"), 422, "not a JPEG, PNG, ", id="a clip"),
    pytest.param(body(b"RIFF\x00\x00\x00\x00AVI LIST"), 422, "not a JPEG, PNG, ", id="another clip"),
    pytest.param(b'{"image": "' + b"A" * 10, 422, "not valid JSON", id="cut off"),
    pytest.param(b'{"testnet_label": ' + b"9" * 10_000 + b"}", 422, "not valid JSON", id="a number of 10,000 digits"),
    pytest.param(b"[]", 422, "object", id="a list"),
    pytest.param(b"null", 422, "object", id="null"),
    pytest.param(b"{}", 422, "image", id="no image"),
    *[pytest.param(json.dumps({"image": value}).encode(), 422, "image", id=f"image {value!r}") for value in (
        "", None, 1, [], {}, True)],
    *[pytest.param(body(testnet_label=value), 422, "testnet_label", id=f"label {value!r}") for value in (
        "1", None, 0.5, True, [])],
    *[pytest.param(json.dumps({"image": value}).encode(), 422, "base64", id=f"base64 {value[:9]!r}") for value in (
        "????", "data:image/jpeg;base64,AAAA", "AAA", "AA AA", "é" * 4)],
    pytest.param(b" " * (2**20 + 1), 413, "1048576 bytes", id="a megabyte too many"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "status", "message"), BAD_BODIES)
async def test_invalid_bodies_are_rejected(content: bytes, status: int, message: str) -> None:
    cascade = FakeCascade()
    async with client(axon(cascade)) as to:
        reply = await post(to, content=content)
        assert (reply.status_code, message in reply.json()["message"]) == (status, True), reply.text
        assert not cascade.asked
        await well(to)


async def test_an_oversized_body_without_a_declared_length_is_cut_off() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 2**16
            yield b"x" * 2**16
            await asyncio.sleep(0.002)

    async with client(axon(FakeCascade())) as to:
        assert (await post(to, content=endless())).status_code == 413
        assert sent < 600 * 2**16, "not to its end"
        await well(to)


async def asked_for(call_headers: list[tuple[str, str]]) -> tuple[int, list[str]]:
    """Return the status of a call whose body never arrives, and the order of body reads and responses."""
    happened: list[str] = []

    async def receive() -> dict[str, Any]:
        happened.append("body")
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, Any]) -> None:
        happened.append(f"{message['type']} {message.get('status', '')}")

    scope = {
        "type": "http", "method": "POST", "path": "/ImageSynapse", "raw_path": b"/ImageSynapse", "query_string": b"",
        "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in call_headers],
    }  # fmt: skip
    to = axon(FakeCascade())
    authorize = to._authorize

    def noted(*arguments: Any) -> float:
        happened.append("judged")
        return authorize(*arguments)

    to._authorize = noted  # type: ignore[method-assign]
    await to.app()(scope, receive, send)  # type: ignore[arg-type]
    starts = [each for each in happened if each.startswith("http.response.start")]
    return int(starts[0].split()[-1]), happened


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"key": STRANGER}, 403),
        ({"bt_header_dendrite_signature": "0x" + "ab" * 64}, 401),
        ({"name": None}, 400),
    ],
)
async def test_the_body_is_not_requested_before_the_headers_are_verified(changes: dict[str, Any], status: int) -> None:
    found, happened = await asked_for(headers(**changes))
    assert found == status
    judged = happened.index("judged") if status != 400 else -1
    assert "body" not in happened[: judged + 1]


async def test_the_best_answer_at_the_cascades_deadline_is_sent() -> None:
    """It gets an earlier deadline than the validator's, which leaves time to send the response."""
    cascade = FakeCascade()
    cascade.stalls = True
    async with client(axon(cascade)) as to:
        reply = await post(to, headers(timeout="1.5"))
    assert (reply.status_code, reply.json()["prediction"]) == (200, 0.9)


async def test_large_bodies_are_bounded_together() -> None:
    cascade = FakeCascade()
    cascade.gate = asyncio.Event()
    to = axon(cascade, limits=Limits(max_body=2**20, in_flight=2**20))
    reading = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b" " * 700_000
        reading.set()
        await asyncio.sleep(5)

    async with client(to) as opened:
        first = asyncio.create_task(post(opened, content=slowly()))
        await reading.wait()
        assert (await post(opened, content=b" " * 500_000)).status_code == 503
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        cascade.gate.set()
        await well(opened)


async def test_a_route_with_a_trailing_slash_is_not_redirected() -> None:
    async with client(axon(FakeCascade())) as to:
        reply = await to.post("/ImageSynapse/", headers=headers(), content=body())
    assert reply.status_code == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BrokenMedia("the file is cut off"), 422),
        (UnsupportedMedia("this is a PDF"), 422),
        (MediaTooLarge("too many pixels"), 422),
        (Overloaded("the queues are full"), 503),
        (NotReady("still loading"), 503),
        (StageFailed("gone"), 503),
        (DeadlineExceeded("over"), 408),
        (KeyError("nobody thought of it"), 503),
    ],
)
async def test_errors_of_the_cascade_have_their_status_and_are_not_cached(error: Exception, status: int) -> None:
    cascade = FakeCascade()
    async with client(axon(cascade)) as to:
        cascade.error = error
        assert (await post(to)).status_code == status
        cascade.error = None
        await well(to)


async def test_if_every_stage_abstains_the_answer_is_minus_one() -> None:
    cascade, counts = FakeCascade(), MinerMetrics()
    cascade.error = NoOpinion("every stage abstained")
    async with client(axon(cascade, counts=counts)) as to:
        reply = await post(to)
    assert (reply.status_code, reply.json()["prediction"]) == (200, -1.0)
    assert b"roadwork_miner_abstained_total 1.0" in counts.render()


async def test_a_missed_deadline_answers_408() -> None:
    cascade = FakeCascade()
    cascade.gate = asyncio.Event()
    async with client(axon(cascade)) as to:
        reply = await post(to, headers(timeout="0.7"))
        assert (reply.status_code, "timeout passed" in reply.json()["message"]) == (408, True)
        assert (await post(to, headers(timeout="0.1"))).status_code == 408, "below the margin"
        cascade.gate.set()
        await well(to)


async def test_calls_per_minute_and_concurrent_calls_of_a_hotkey_are_limited() -> None:
    cascade = FakeCascade()
    terms = BlacklistConfig(min_stake=1.0, per_minute=3, max_concurrent=1)
    async with client(axon(cascade, terms)) as to:
        cascade.gate = asyncio.Event()
        first = asyncio.create_task(post(to))
        await asyncio.wait_for(cascade.begun.wait(), 5)
        second = await post(to)
        assert (second.status_code, "in flight" in second.json()["message"]) == (429, True)
        cascade.gate.set()
        assert (await first).status_code == 200
        statuses = [(await post(to)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]


async def test_calls_beyond_the_queue_are_rejected() -> None:
    cascade = FakeCascade()
    cascade.gate = asyncio.Event()
    async with client(axon(cascade, semaphore=PrioritySemaphore(1, 1))) as to:
        tasks = [asyncio.create_task(post(to, content=body(PICTURE + bytes([at])))) for at in range(3)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().status_code for task in done] == [503]
        cascade.gate.set()
        assert sorted([(await task).status_code for task in tasks]) == [200, 200, 503]


async def test_unknown_routes_and_methods_get_a_list_of_routes() -> None:
    async with client(axon(FakeCascade())) as to:
        for reply, status in ((await to.post("/Synapse"), 404), (await to.get("/ImageSynapse"), 405)):
            assert (reply.status_code, "/ImageSynapse" in reply.json()["message"]) == (status, True)


async def test_offline_only_hotkeys_on_the_allow_list_are_accepted() -> None:
    terms = BlacklistConfig(allow=frozenset({STRANGER.ss58_address}), offline=True)
    async with client(axon(FakeCascade(), terms)) as to:
        assert (await post(to, headers(key=STRANGER))).status_code == 200
        reply = await post(to, headers(key=VALIDATOR))
        assert (reply.status_code, "allow-list" in reply.json()["message"]) == (403, True)


async def test_rejections_and_answers_are_counted_and_rewards_where_the_label_is_known() -> None:
    counts, cascade = MinerMetrics(), FakeCascade()
    async with client(axon(cascade, counts=counts)) as to:
        for at, label in enumerate((1, 0, 1)):
            cascade.probability = 0.9 if label else 0.1
            await post(to, content=body(PICTURE + bytes([at]), testnet_label=label))
        await post(to, content=body(PICTURE + bytes([2]), testnet_label=1))
        await post(to, headers(key=STRANGER))
    metrics = counts.render().decode()
    assert 'roadwork_miner_rejected_total{reason="unrecognized"} 1.0' in metrics
    assert 'roadwork_miner_answers_total{exit="backbone"} 4.0' in metrics
    assert "roadwork_miner_cache_hits_total 1.0" in metrics
    assert "roadwork_miner_reward 1.0" in metrics and "roadwork_miner_labeled_answers 4.0" in metrics


async def test_refused_nonces_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    async with client(axon(FakeCascade())) as to:
        for age_s in (*[600.0] * 30, -600.0):
            assert (await post(to, headers(age_s=age_s))).status_code == 401
    lines = [each for each in caplog.messages if each.startswith("Refused a call of")]
    assert len(lines) == 10 and all("timedatectl" in line and VALIDATOR.ss58_address in line for line in lines)
