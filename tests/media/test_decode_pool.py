"""Decoding in separate processes."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, NotReady, RoadworkError, UnsupportedMedia
from roadwork_serve.media import Clip, Photo, open_rgb, page, read
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.media.decode_response import parse_error, parse_media, parse_page
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus
from tests.weak_reader import DIES, EATS, HANGS, LIES

LIMITS = MediaLimits()
GOOD = corpus.encoded(corpus.picture())
# A lossless WebP of one colour, 8165 x 6123: no other still of 50 megapixels takes as much memory.
LARGEST = bytes.fromhex("524946461a000000574542505650384c0d0000002fe49ffa15071011118888fe0700")


@asynccontextmanager
async def readers(count: int = 1, module: str = "tests.weak_reader") -> AsyncIterator[DecodePool]:
    opened = DecodePool(count, module)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
async def weak() -> AsyncIterator[DecodePool]:
    async with readers() as opened:
        await opened.ready()
        yield opened


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Return whether the process ends within that time."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], seconds)[0])
    finally:
        os.close(process)


async def until(holds: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - of what another process does
            await asyncio.sleep(0.001)


async def hung(opened: DecodePool, begun: Path) -> asyncio.Task[Clip | Photo]:
    """Return a read that has started and does not end."""
    task = asyncio.create_task(opened.read(HANGS + bytes(begun), LIMITS))
    await until(begun.exists)
    return task


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        corpus.encoded(corpus.picture(), "PNG"),
        corpus.clip(),
        corpus.clip(3),
        corpus.clip(40, kind="mpegts")[:-1000],
    ],
)
async def test_the_pool_returns_the_same_media_as_media_read(data: bytes) -> None:
    async with readers(module="roadwork_serve.media.decode_worker") as opened:
        media, wanted = await opened.read(data, LIMITS), read(data, LIMITS)
    assert (media.kind, media.mime, media.width, media.height) == (
        wanted.kind, wanted.mime, wanted.width, wanted.height,
    )  # fmt: skip
    assert media.images == wanted.images and media.timestamps_s == wanted.timestamps_s
    assert np.array_equal(media.thumbs, wanted.thumbs)
    match media, wanted:
        case Clip(), Clip():
            assert media.seconds == wanted.seconds
            assert media.incomplete is wanted.incomplete is (data[:1] == b"G")
        case _:
            assert isinstance(media, Photo)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_the_pool_makes_pages(kind: str) -> None:
    data = corpus.encoded(corpus.picture(2000, 100), kind)
    async with readers(module="roadwork_serve.media.decode_worker") as opened:
        made = await opened.page(data, LIMITS)
        assert made == page(data, LIMITS) and open_rgb(made).size == (1536, 77)
        with pytest.raises(UnsupportedMedia, match="a photo is needed"):
            await opened.page(corpus.clip(), LIMITS)


@pytest.mark.parametrize("answer", [({"kind": "photo"}, GOOD), ({"kind": "page"}, b"\x89PNG"), ({"kind": "page"}, b"")])
def test_a_forged_page_is_rejected(answer: tuple[dict[str, str], bytes]) -> None:
    with pytest.raises((ValueError, RoadworkError)):
        parse_page(answer[0], bytearray(answer[1]))


async def test_decoding_time_is_measured_in_the_decoding_process(tmp_path: Path) -> None:
    """A busy event loop does not count. An abandoned file is reported as such."""
    timings: list[tuple[float, bool]] = []
    opened = DecodePool(1, "tests.weak_reader", timed=lambda took_s, whole, heavy: timings.append((took_s, whole)))
    try:
        await opened.ready()
        reading = asyncio.create_task(opened.read(GOOD, LIMITS))
        await asyncio.sleep(0.01)
        time.sleep(1.5)  # noqa: ASYNC251 - the busy loop
        assert isinstance(await reading, Photo)
        ((took_s, whole),) = timings
        assert 0 < took_s < 1.0 and whole
        (await hung(opened, tmp_path / "begun")).cancel()
        await until(lambda: len(timings) == 2)
        assert timings[1][0] >= 0.1 and not timings[1][1]
    finally:
        await opened.aclose()


async def test_hostile_files_raise_the_same_errors_and_harm_no_process() -> None:
    async with readers(2, "roadwork_serve.media.decode_worker") as opened:
        await opened.ready()
        before = opened.pids
        for name, (data, error) in corpus.hostile_files().items():
            with pytest.raises(MediaError) as wanted:
                read(data, LIMITS)
            with pytest.raises(error) as caught:
                await opened.read(data, LIMITS)
            assert (type(caught.value), str(caught.value)) == (type(wanted.value), str(wanted.value)), name
        assert opened.pids == before
        assert isinstance(await opened.read(GOOD, LIMITS), Photo)


async def test_a_file_at_the_limit_of_pixels_fits_into_the_memory_of_its_process() -> None:
    async with readers(module="roadwork_serve.media.decode_worker") as opened:
        photo = await opened.read(LARGEST, LIMITS)
    assert photo.width * photo.height > 0.99 * LIMITS.max_pixels


async def test_a_file_that_exceeds_the_memory_limit_is_too_large(weak: DecodePool) -> None:
    with pytest.raises(MediaTooLarge, match="decoding the photo takes too much memory; send"):
        await weak.read(EATS, MediaLimits(max_pixels=1, max_bytes=1000))


async def test_a_file_that_ends_its_process_harms_no_other(weak: DecodePool) -> None:
    (before,) = weak.pids
    fatal, next_one = asyncio.create_task(weak.read(DIES, LIMITS)), asyncio.create_task(weak.read(GOOD, LIMITS))
    with pytest.raises(BrokenMedia, match="the file crashes the decoder; export it again"):
        await fatal
    assert isinstance(await next_one, Photo)
    assert weak.pids != [before]


async def test_an_idle_process_that_is_killed_is_replaced(weak: DecodePool) -> None:
    (before,) = weak.pids
    os.kill(before, signal.SIGKILL)
    assert gone(before)
    assert isinstance(await weak.read(GOOD, LIMITS), Photo)


async def test_a_process_killed_while_decoding_fails_only_its_file(weak: DecodePool, tmp_path: Path) -> None:
    task = await hung(weak, tmp_path / "begun")
    os.kill(weak.pids[0], signal.SIGKILL)
    with pytest.raises(BrokenMedia):
        await task
    assert isinstance(await weak.read(GOOD, LIMITS), Photo)


async def test_a_file_that_takes_too_long_is_too_large_and_its_process_is_killed(
    weak: DecodePool, tmp_path: Path
) -> None:
    (before,) = weak.pids
    with pytest.raises(MediaTooLarge, match=r"longer than 0\.1 s \(max_decode_s\); send a smaller one"):
        await weak.read(HANGS + bytes(tmp_path / "begun"), MediaLimits(max_decode_s=0.1))
    assert isinstance(await weak.read(GOOD, LIMITS), Photo)
    assert gone(before)


async def test_a_cancelled_read_stops_its_process(weak: DecodePool, tmp_path: Path) -> None:
    (before,) = weak.pids
    task = await hung(weak, tmp_path / "begun")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert isinstance(await weak.read(GOOD, LIMITS), Photo)
    assert gone(before)


async def test_a_quick_cancelled_read_keeps_its_process(weak: DecodePool) -> None:
    before = weak.pids
    task = asyncio.create_task(weak.read(GOOD, LIMITS))
    await asyncio.sleep(0)
    assert not weak.idle
    task.cancel()
    assert isinstance(await weak.read(GOOD, LIMITS), Photo)
    assert weak.pids == before


async def test_queued_reads_run_in_order_and_cancelled_ones_are_skipped(weak: DecodePool) -> None:
    before = weak.pids
    done: list[int] = []

    async def numbered(number: int) -> None:
        await weak.read(GOOD, LIMITS)
        done.append(number)

    tasks = [asyncio.create_task(numbered(number)) for number in range(6)]
    await asyncio.sleep(0)
    assert not weak.idle
    tasks[3].cancel()
    await asyncio.wait(tasks)
    assert done == [0, 1, 2, 4, 5]
    assert weak.pids == before


async def test_no_more_files_are_decoded_at_once_than_there_are_processes(tmp_path: Path) -> None:
    async with readers(2) as opened:
        first, second = [await hung(opened, tmp_path / name) for name in "ab"]
        waiting = asyncio.create_task(opened.read(GOOD, LIMITS))
        await until(lambda: not opened.idle)
        assert len(opened.pids) == 2 and not waiting.done()
        first.cancel()
        assert isinstance(await waiting, Photo)
        assert len(opened.pids) == 2 and not second.done()
        second.cancel()


FRAMES = {"kind": "clip", "width": 1, "height": 1, "seconds": 1}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"kind": "photo", "width": 1, "height": 1}, 7),
        ({"kind": "photo", "width": "wide", "height": 1}, 224 * 224 * 3),
        ({"kind": "photo", "width": 1e999, "height": 1}, 224 * 224 * 3),
        (FRAMES | {"frames": [[0, -9]]}, 224 * 224 * 3),
        (FRAMES | {"frames": []}, 0),
        (FRAMES | {"frames": [[0, 1]] * 9}, 9 * (1 + 224 * 224 * 3)),
        (FRAMES | {"frames": [[0, 10**9]]}, 224 * 224 * 3),
        ({"kind": "error", "error": "SystemExit", "message": "0"}, 0),
        ({"kind": "ready"}, 0),
        (["kind"], 0),
    ],
)
def test_forged_responses_of_a_compromised_process_are_rejected(header: object, size: int) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, OverflowError)):
        parse_error(header) or parse_media(header, bytearray(size), "image/jpeg", LIMITS)


async def test_a_process_with_forged_responses_is_replaced(weak: DecodePool) -> None:
    for lie in ([["kind"], 0], [{"kind": "photo"}, 10**9], [{"kind": "m" * 10**6}, 0]):
        (before,) = weak.pids
        with pytest.raises(BrokenMedia, match="the file crashes the decoder"):
            await weak.read(LIES + json.dumps(lie).encode(), LIMITS)
        assert isinstance(await weak.read(GOOD, LIMITS), Photo)
        assert gone(before)


async def test_decoding_processes_do_not_inherit_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_KEY", "secret")
    async with readers() as opened:
        await opened.ready()
        with open(f"/proc/{opened.pids[0]}/environ", "rb") as environment:  # noqa: ASYNC230 - of the kernel
            content = environment.read()
    assert b"PYTHONPATH" in content and b"secret" not in content


async def test_processes_end_with_their_pool(weak: DecodePool, tmp_path: Path) -> None:
    (pid,) = weak.pids
    task = await hung(weak, tmp_path / "begun")
    await weak.aclose()
    assert gone(pid)
    with pytest.raises(NotReady, match="the server is shutting down; send the file to another"):
        await task
    with pytest.raises(NotReady):
        await weak.read(GOOD, LIMITS)


@pytest.mark.parametrize("reads", [False, True])
def test_processes_end_when_their_parent_is_killed(reads: bool, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    program = f"""
import asyncio
from pathlib import Path
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.media.decode_response import parse_error, parse_media, parse_page
from roadwork_serve.profiles.media_limits import MediaLimits

async def main():
    readers = DecodePool(1, "tests.weak_reader")
    await readers.ready()
    if {reads}:
        reading = asyncio.create_task(readers.read({HANGS + bytes(begun)!r}, MediaLimits(max_decode_s=1)))
    while {reads} and not Path({str(begun)!r}).exists():
        await asyncio.sleep(0.001)
    print(*readers.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)


async def test_a_process_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with readers() as opened:
        with pytest.raises(RoadworkError, match="does not start"):
            await opened.read(GOOD, LIMITS)
        monkeypatch.undo()
        assert isinstance(await opened.read(GOOD, LIMITS), Photo)


async def test_a_process_that_exits_at_startup_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with readers(module="tests.no_such_module") as opened:
        with pytest.raises(RoadworkError, match="the decoding process does not start; see the server's log"):
            await opened.read(GOOD, LIMITS)
        with pytest.raises(RoadworkError):
            await opened.ready()
