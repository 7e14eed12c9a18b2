import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

from roadwork_serve.api.media_decoder import MediaDecoder
from roadwork_serve.errors import BrokenMedia, DeadlineExceeded, Overloaded
from roadwork_serve.profiles.load import load_profile
from tests.cascade import clock
from tests.cascade.clock import Clock
from tests.corpus import encoded, picture

PHOTO = encoded(picture())


@pytest.fixture
async def reading():
    reading = MediaDecoder(load_profile("mini"))
    yield reading
    await reading.aclose()


async def test_a_file_is_decoded_by_its_deadline(reading: MediaDecoder):
    assert (await reading.read(PHOTO, time.monotonic() + 30)).kind == "photo"
    with pytest.raises(BrokenMedia):
        await reading.read(PHOTO[:200], time.monotonic() + 30)
    with pytest.raises(DeadlineExceeded, match="had passed"):
        await reading.read(PHOTO, time.monotonic())
    assert reading.count == 0


class Slow:
    """A pool of two processes that take 0.2 s per file; stopping a read costs its process."""

    def __init__(self, count: int, timed: Callable[[float, bool, bool], None]) -> None:
        self.stopped = 0
        self.timed = timed

    async def read(self, data: bytes, limits: object) -> bytes:
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        self.timed(0.2, True, False)
        return data

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("rate", [9, 15, 30])
def test_under_overload_it_keeps_decoding_at_full_capacity(monkeypatch: pytest.MonkeyPatch, rate: int):
    monkeypatch.setattr("roadwork_serve.api.media_decoder.DecodePool", Slow)

    async def main(time: Clock) -> None:
        reading = MediaDecoder(load_profile("mini"))
        outcomes: Counter[str] = Counter()

        async def one() -> None:
            began = time.now
            try:
                await reading.read(PHOTO, time.now + 1.0)
                outcomes["read"] += 1
            except (Overloaded, DeadlineExceeded) as error:
                outcomes[type(error).__name__] += 1
            assert time.now <= began + 1.0

        tasks = []
        for _ in range(60 * rate):
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
        assert outcomes["read"] >= 0.95 * 60 * min(rate, 10)
        assert reading._pool.stopped <= 0.01 * 60 * rate  # type: ignore[attr-defined]
        assert (reading.count, reading.wait_s()) == (0, 0.0)

    clock.run(main)
