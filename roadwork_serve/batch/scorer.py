"""Files to verdicts by a cascade of one's own, on a loop of its own."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from roadwork_serve.batch.inputs import InputFile, InputSource
from roadwork_serve.batch.parts import Scored
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.errors import BadRequest, BrokenMedia, MediaTooLarge, RoadworkError
from roadwork_serve.local_cascade import LocalCascade, local_cascade
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.stages.load import Opener

T = TypeVar("T")
AT_ONCE = 64  # files in hand: enough to fill the batches of stage 1 while others are read
_DEADLINE_S = 24 * 3600.0  # far enough never to bite


class Scorer:
    """Opens the cascade of a profile; threads may call it, each with files of its own.

    readers: processes that read files, so that none that is hostile can harm this one.
    opener: see `local_cascade`. Raises ModelError where a model cannot be loaded.
    """

    def __init__(
        self, source: InputSource, profile: Profile, policy: Policy, readers: int = 1, opener: Opener | None = None
    ) -> None:
        self._source = source
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scorer", daemon=True)
        self._thread.start()
        self._opened = _open(profile, policy, readers, opener)
        try:
            self._cascade, self._readers, self._gate = self._run(self._opened.__aenter__())
        except BaseException:
            self._stop()
            raise

    def score(self, files: Sequence[InputFile]) -> list[Scored]:
        """What came of each, in their order. Files are all of their own, or all rows of one Parquet file."""
        return self._run(self._score(files))

    def close(self) -> None:
        """End the processes and close the models."""
        self._run(self._opened.__aexit__(None, None, None))
        self._stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _score(self, files: Sequence[InputFile]) -> list[Scored]:
        inside: dict[InputFile, bytes] = {}
        if files and files[0].row is not None:
            inside = await asyncio.to_thread(lambda: dict(self._source.pictures(files)))
        return await asyncio.gather(*(self._one(file, inside) for file in files))

    async def _one(self, file: InputFile, inside: dict[InputFile, bytes]) -> Scored:
        async with self._gate:
            try:
                data = inside.pop(file) if file.row is not None else await self._whole(file)
                if not data:
                    raise BrokenMedia("the file is empty" if file.row is None else "the row has no picture")
                read = await self._readers.read(data, self._profile.media)
                item = Item.of(read, uuid.uuid4().hex, time.monotonic() + _DEADLINE_S)
                return Scored(file.name, await self._cascade.router.judge(item))
            except OSError as error:
                return Scored.refused(file.name, BadRequest(f"the file cannot be read: {error.strerror or error}"))
            except RoadworkError as error:
                return Scored.refused(file.name, error)

    async def _whole(self, file: InputFile) -> bytes:
        """Raises MediaTooLarge before anything is read, where its size is known."""
        most = self._profile.media.max_bytes
        if file.size is not None and file.size > most:
            raise MediaTooLarge(f"the file has {file.size:,} bytes, and {most:,} are allowed (max_bytes)")
        return await asyncio.to_thread(self._source.read, file, most)


@asynccontextmanager
async def _open(
    profile: Profile, policy: Policy, readers: int, opener: Opener | None
) -> AsyncIterator[tuple[LocalCascade, DecodePool, asyncio.Semaphore]]:
    async with local_cascade(profile, policy, opener) as cascade:
        reading = DecodePool(readers)
        try:
            await reading.ready()
            yield cascade, reading, asyncio.Semaphore(AT_ONCE)
        finally:
            await reading.aclose()
