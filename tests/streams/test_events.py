"""Events of road work, and their file."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.streams.event_log import EventLog, check_webhook, deliver
from roadwork_serve.streams.events import Event, EventDetector
from tests.streams.live import until

START_S = 1_800_000_000.0


def events(detector: EventDetector, *parts: tuple[float, float | None]) -> list[Event]:
    """Return the events of parts, each of a length in seconds and a probability, with two pictures a second."""
    found, at_s = [], START_S
    for seconds, probability in parts:
        for _ in range(round(2 * seconds)):
            found += detector.update(at_s, probability, ["cone"] if probability and probability > 0.5 else [])
            at_s += 0.5
    return found


async def deliver_all(
    log: EventLog, webhook: Callable[[httpx.Request], httpx.Response], say: Callable[[str], None]
) -> None:
    """Deliver a log to its end."""
    noted, size = log.path.with_name(log.path.name + ".delivered"), log.path.stat().st_size
    before = noted.read_text() if noted.exists() else ""

    def is_done() -> bool:
        return noted.exists() and noted.read_text() != before and json.loads(noted.read_text())["at"] == size

    task = asyncio.create_task(deliver(log, "http://hook/", say, httpx.MockTransport(webhook), 0.01))
    await until(is_done)
    task.cancel()
    await asyncio.wait([task])


def test_road_work_begins_goes_on_and_ends() -> None:
    found = events(EventDetector("gate"), (30, 0.05), (150, 0.95), (30, 0.05))
    assert [each.event for each in found] == ["began", "ongoing", "ongoing", "ended"]
    assert len({each.id for each in found}) == 1
    assert {each.began_at for each in found} == {found[0].at}
    assert 30 <= found[0].at.timestamp() - START_S <= 32
    assert 180 <= found[-1].at.timestamp() - START_S <= 183
    assert found[-1].probability <= 0.2 < 0.95 < found[-1].highest
    assert found[-1].seen == ["cone"]


@pytest.mark.parametrize(
    "parts",
    [
        [(60, 0.1)],
        [(30, 0.1), (0.5, 0.99), (30, 0.1)],  # one wrong picture
        [(60, 0.5)],
        [(60, None)],
        [],
    ],
)
def test_there_is_none_without_evidence(parts: list[tuple[float, float | None]]) -> None:
    assert events(EventDetector("gate"), *parts) == []


def test_one_wrong_picture_or_a_pause_does_not_end_it() -> None:
    kinds = [each.event for each in events(EventDetector("gate"), (20, 0.9), (0.5, 0.02), (20, 0.9), (300, None))]
    assert kinds[0] == "began" and "ended" not in kinds


@pytest.mark.parametrize("every_s", [0.5, 10, 60])
def test_a_slow_camera_has_the_same_events(every_s: float) -> None:
    detector = EventDetector("gate")
    levels = [0.05] * 5 + [0.95] * 5 + [0.05] * 5
    found = [event for at, p in enumerate(levels) for event in detector.update(START_S + at * every_s, p)]
    assert [each.event for each in found if each.event != "ongoing"] == ["began", "ended"]


def test_an_outage_ends_nothing_and_goes_on_with_nothing() -> None:
    detector = EventDetector("gate")
    found = events(detector, (20, 0.95), (600, None))
    assert [each.event for each in found] == ["began"]
    assert [each.event for each in detector.update(START_S + 1000, 0.6)] == ["ongoing"]


def test_thresholds_must_be_in_order() -> None:
    for begin, end in ((0.3, 0.3), (0.2, 0.8), (1.5, 0.1), (0.8, -0.1)):
        with pytest.raises(ConfigError, match="begins at"):
            EventDetector("gate", begin, end)


def test_a_clock_that_is_set_back_gives_rising_times() -> None:
    detector = EventDetector("gate")
    list(detector.update(START_S, 0.05))
    found = [event for step in range(10) for event in detector.update(START_S - 3600 + step, 0.95)]
    assert [each.event for each in found] == ["began"] and found[0].at.timestamp() == START_S


def test_a_restart_goes_on_with_the_same_event(tmp_path: Path) -> None:
    first = EventDetector("gate")
    with EventLog(tmp_path / "events.jsonl") as log:
        for event in events(first, (20, 0.95)):
            log.append(event)
    with EventLog(tmp_path / "events.jsonl") as log:
        second = EventDetector("gate")
        last = log.last()
        assert last is not None
        second.resume(last)
        found = [event for step in range(20) for event in second.update(START_S + 30 + step / 2, 0.05)]
    assert [(each.id, each.event) for each in found] == [(last.id, "ended")]
    third = EventDetector("gate")
    third.resume(found[-1])
    assert list(third.update(START_S + 60, 0.05)) == []


async def test_a_log_that_was_begun_anew_is_delivered_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    came: list[str] = []

    def webhook(request: httpx.Request) -> httpx.Response:
        came.append(request.headers["Idempotency-Key"])
        return httpx.Response(200)

    for number in (1, 2):
        path.unlink(missing_ok=True)
        with EventLog(path) as log:
            for event in events(EventDetector(f"gate {number}"), (20, 0.95), (20, 0.05)):
                log.append(event)
            await deliver_all(log, webhook, print)
    assert len(set(came)) == 4


@pytest.mark.parametrize("url", ["ftp://host/", "hook", "http://", "http://host:99999/"])
def test_what_is_no_webhook_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="webhook"):
        check_webhook(url)


def test_half_a_line_is_removed_and_foreign_content_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    (event,) = events(EventDetector("gate"), (20, 0.95))
    path.write_text(event.model_dump_json() + "\n" + event.model_dump_json()[:40])
    with EventLog(path) as log:
        assert log.last() == event
        log.append(event)
        with pytest.raises(ConfigError, match="another process writes"):
            EventLog(path).__enter__()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [event.id] * 2
    for content in ("my shopping list\n", "a list without an end", '{"id": 1}', f"{event.model_dump_json()}\nmine\n"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="something other than events"):
            EventLog(path).__enter__()
        assert path.read_text() == content
    with pytest.raises(ConfigError, match="cannot be written"):
        EventLog(Path("/proc/none/events.jsonl")).__enter__()


async def test_each_event_is_delivered_once_in_order_over_failures_and_a_restart(tmp_path: Path) -> None:
    came: list[str] = []
    statuses = iter([500, 302, 200, 200])
    problems: list[str] = []

    def webhook(request: httpx.Request) -> httpx.Response:
        status = next(statuses, 200)
        if status == 200:
            came.append(json.loads(request.content)["event"])
        return httpx.Response(status)

    found = events(EventDetector("gate"), (20, 0.95), (20, 0.05), (20, 0.95), (20, 0.05))
    assert [each.event for each in found] == ["began", "ended"] * 2
    with EventLog(tmp_path / "events.jsonl") as log:
        for due in (2, 4):
            for event in found[due - 2 : due]:
                log.append(event)
            await deliver_all(log, webhook, problems.append)
            assert len(came) == due
    assert came == ["began", "ended", "began", "ended"]
    assert problems == ["the webhook does not accept events (status 500); they are kept"]
