import asyncio
import time

import pytest

from deployments.reading import Reading
from roadwork_serve.errors import BrokenMedia, DeadlineExceeded, Overloaded
from roadwork_serve.profiles.load import load_profile
from tests.corpus import encoded, picture

PHOTO = encoded(picture())


class Held:
    """Readers that read when they are let."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def read(self, data: bytes, limits: object) -> bytes:
        await self.gate.wait()
        return data


@pytest.fixture
async def reading():
    reading = Reading(load_profile("mini"))
    yield reading
    await reading.aclose()


async def test_a_file_is_read_by_its_deadline(reading: Reading):
    assert (await reading.read(PHOTO, time.monotonic() + 30)).kind == "photo"
    with pytest.raises(BrokenMedia):
        await reading.read(PHOTO[:200], time.monotonic() + 30)
    with pytest.raises(DeadlineExceeded, match="had passed"):
        await reading.read(PHOTO, time.monotonic())
    assert reading.count == 0


async def test_a_file_for_which_there_is_no_time_is_refused_before_it_waits(reading: Reading):
    reading._readers, readers = Held(), reading._readers
    try:
        for _ in range(6):  # to learn how slow it is
            with pytest.raises(DeadlineExceeded, match="before the file was read"):
                await reading.read(PHOTO, time.monotonic() + 0.05)
        waiting = [asyncio.create_task(reading.read(PHOTO, time.monotonic() + 30)) for _ in range(4)]
        await asyncio.sleep(0)
        assert reading.count == 4
        assert reading.wait_s() > 0.05
        with pytest.raises(Overloaded, match="4 files are to be read first") as caught:
            await reading.read(PHOTO, time.monotonic() + 0.05)
        assert caught.value.retry_after_s > 0.05
        reading._readers.gate.set()
        await asyncio.gather(*waiting)
        assert (reading.count, reading.wait_s()) == (0, 0.0)
    finally:
        reading._readers = readers
