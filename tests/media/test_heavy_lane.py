"""The heavy lane: order, places and memory, and that heavy files leave a process to all others."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roadwork_serve.media import Photo
from roadwork_serve.media import decode_pool as decode_pool_module
from roadwork_serve.media.decode_cost import decode_cost, largest_mib
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.media.heavy_lane import HeavyLane, heavy_places
from roadwork_serve.media.sniff import sniff
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus
from tests.media.test_decode_pool import until
from tests.weak_reader import BURNS

LIMITS = MediaLimits()
GOOD = corpus.encoded(corpus.picture())
PATIENT = MediaLimits(max_decode_s=300)  # on a busy machine
HEAVY = corpus.jpeg_of_scans(1, corpus.picture(8000, 6000))


async def test_files_enter_in_order_while_there_are_places_and_memory() -> None:
    lane = HeavyLane(2)
    entered: list[str] = []

    async def enter(name: str, memory_mib: int) -> None:
        await lane.enter(memory_mib, 100)
        entered.append(name)

    tasks = [asyncio.create_task(enter(name, mib)) for name, mib in (("a", 60), ("b", 50), ("c", 10), ("d", 500))]
    await asyncio.sleep(0.01)
    assert entered == ["a"] and not lane.try_enter(10, 100)  # behind b, which has no room
    lane.leave(60)
    await asyncio.sleep(0.01)
    assert entered == ["a", "b", "c"] and lane.count == 2
    lane.leave(50)
    await asyncio.sleep(0.01)
    assert entered == ["a", "b", "c"]
    lane.leave(10)
    await asyncio.gather(*tasks)
    assert entered[-1] == "d" and lane.count == 1, "a file larger than the lane enters alone"


async def test_a_cancelled_wait_makes_room_for_the_next() -> None:
    lane = HeavyLane(1)
    await lane.enter(10, 100)
    first, second = (asyncio.create_task(lane.enter(10, 100)) for _ in range(2))
    await asyncio.sleep(0.01)
    lane.leave(10)
    first.cancel()  # it has its place, and does not know yet
    await asyncio.wait([first, second], timeout=1)
    assert first.cancelled() and second.done() and lane.count == 1


def test_heavy_places() -> None:
    assert [heavy_places(count) for count in (1, 2, 8)] == [1, 1, 7]


@pytest.mark.parametrize(
    ("data", "heavy"),
    [
        (corpus.jpeg_resized(8000, 6000), False),  # a baseline JPEG is scaled while it is decoded
        (HEAVY, True),
        (corpus.jpeg_of_scans(1, corpus.picture(4000, 3000)), False),
        (corpus.raw_png(4000, 3000, 8, 2, [bytes(12_000)] * 3000), False),
        (corpus.raw_png(8000, 6000, 8, 2, [bytes(24_000)] * 6000), True),
        (corpus.webp_canvas(3_500), False),
        (corpus.webp_canvas(7_000), True),
        (corpus.clip(size=(640, 480)), False),
        (corpus.clip(kind="webm", codec="libvpx", size=(640, 480)), False),
        (corpus.patched(corpus.clip(), b"stsd", ">HH", 8000, 6000, skip=40), True),
        (corpus.patched(corpus.clip(), b"stsz", ">I", 200_000, skip=8), True),
        (b"\xff\xd8\xff" + bytes(100), False),
        (b"RIFF\0\0\0\0WEBP", False),
        (b"\0\0\0\x18ftypisom" + bytes(100), True),  # unknown
    ],
)
def test_the_header_decides_first(data: bytes, heavy: bool) -> None:
    cost = decode_cost(data, sniff(data), LIMITS)
    assert cost.heavy is heavy, cost
    assert cost.memory_mib <= largest_mib(LIMITS)


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DecodePool]:
    monkeypatch.setattr(decode_pool_module, "_LIGHT_S", 0.1)
    monkeypatch.setattr(decode_pool_module, "_CHECK_S", 0.05)
    pool = DecodePool(2, "tests.weak_reader")
    await pool.ready()
    yield pool
    await pool.aclose()


async def test_files_that_prove_heavy_leave_a_process_to_all_others(pool: DecodePool, tmp_path: Path) -> None:
    """Their headers declare little. One occupies the lane, the others are stopped and wait for it."""
    burning = [asyncio.create_task(pool.read(BURNS + bytes(tmp_path / name), PATIENT)) for name in "abc"]
    await until(lambda: pool.heavy == 1)
    for _ in range(5):
        async with asyncio.timeout(60):
            assert isinstance(await pool.read(GOOD, LIMITS), Photo)
        assert not any(task.done() for task in burning)
    for task in burning:
        task.cancel()
    await asyncio.wait(burning)


async def test_a_file_that_was_stopped_is_decoded_in_its_turn(pool: DecodePool, tmp_path: Path) -> None:
    first, second = (asyncio.create_task(pool.read(BURNS + bytes(tmp_path / name), PATIENT)) for name in "ab")
    await until(lambda: pool.heavy == 1 and pool.idle == 1)
    running = next(name for name in "ab" if (tmp_path / name).exists())
    for name in "ab":
        (tmp_path / f"{name}.end").touch()
    photos = await asyncio.gather(first, second)
    assert running and all(isinstance(photo, Photo) for photo in photos)
    await until(lambda: pool.heavy == 0 and pool.idle == 2)


async def test_heavy_files_are_decoded_one_after_the_other_and_light_ones_meanwhile() -> None:
    pool = DecodePool(2)
    try:
        await pool.ready()
        heavy = [asyncio.create_task(pool.read(HEAVY, PATIENT)) for _ in range(4)]
        await until(lambda: pool.heavy == 1)
        lasted = [0.0]
        while not all(task.done() for task in heavy):
            began = time.monotonic()
            await pool.read(GOOD, LIMITS)
            lasted.append(time.monotonic() - began)
            assert pool.heavy <= 1
        assert len(lasted) > 10
        assert all(isinstance(photo, Photo) for photo in await asyncio.gather(*heavy))
    finally:
        await pool.aclose()
