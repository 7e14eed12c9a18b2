"""Scores files with a cascade in this process, on an event loop in its own thread."""

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
from roadwork_serve.cascade.prediction import Item, Page
from roadwork_serve.errors import BadRequest, BrokenMedia, ConfigError, MediaTooLarge, RoadworkError
from roadwork_serve.local_cascade import LocalCascade, local_cascade
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.stages.load import Opener

T = TypeVar("T")
MAX_CONCURRENT = 64  # files: enough to fill the batches of stage 1 while others are decoded
_DEADLINE_S = 24 * 3600.0  # in effect none


class Scorer:
    """A cascade that scores files. Threads may share it, each with its own files.

    Args:
        source: Where the files are.
        profile: The models and their settings.
        policy: The policy to follow.
        decode_processes: Processes that decode files, so that a hostile file cannot harm this one.
        opener: See `local_cascade`.

    Raises:
        ModelError: A model cannot be loaded.
    """

    def __init__(
        self,
        source: InputSource,
        profile: Profile,
        policy: Policy,
        decode_processes: int = 1,
        opener: Opener | None = None,
    ) -> None:
        self._source = source
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scorer", daemon=True)
        self._thread.start()
        self._opened = _open(profile, policy, decode_processes, opener)
        try:
            self._cascade, self._decode_pool, self._gate = self._run(self._opened.__aenter__())
        except BaseException:
            self._stop()
            raise

    def score(self, files: Sequence[InputFile]) -> list[Scored]:
        """Return the results in the order of the files, which are all separate or all rows of one Parquet file."""
        return self._run(self._score(files))

    def close(self) -> None:
        """Stop the processes and close the models."""
        self._run(self._opened.__aexit__(None, None, None))
        self._stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _score(self, files: Sequence[InputFile]) -> list[Scored]:
        rows: dict[InputFile, bytes | OSError] = {}
        if files and files[0].row is not None:
            rows = await asyncio.to_thread(self._read_rows, files)
        return await asyncio.gather(*(self._one(file, rows) for file in files))

    async def _one(self, file: InputFile, rows: dict[InputFile, bytes | OSError]) -> Scored:
        async with self._gate:
            try:
                if file.problem is not None:
                    raise BadRequest(file.problem)
                data = rows.pop(file) if file.row is not None else await self._read(file)
                if isinstance(data, OSError):
                    raise data
                if not data:
                    raise BrokenMedia("the file is empty" if file.row is None else "the row has no image")
                pool, limits = self._decode_pool, self._profile.media
                page = Page(lambda _: pool.page(data, limits))
                item = Item.of(await pool.read(data, limits), uuid.uuid4().hex, time.monotonic() + _DEADLINE_S, page)
                return Scored(file.name, await self._cascade.router.classify_item(item))
            except OSError as error:
                return Scored.rejected(file.name, BadRequest(f"the file cannot be read: {error.strerror or error}"))
            except RoadworkError as error:
                return Scored.rejected(file.name, error)

    def _read_rows(self, files: Sequence[InputFile]) -> dict[InputFile, bytes | OSError]:
        """Return the images in rows of a table; where the table is damaged or gone, the error instead."""
        rows: dict[InputFile, bytes | OSError] = {}
        try:
            rows.update(self._source.read_rows(files, self._profile.media.max_bytes))
        except ConfigError as error:
            return {file: OSError(str(error)) for file in files} | rows
        return rows

    async def _read(self, file: InputFile) -> bytes:
        """Return the bytes of a file. Raises MediaTooLarge, if the size is known before anything is read."""
        limit = self._profile.media.max_bytes
        if file.size is not None and file.size > limit:
            raise MediaTooLarge(f"the file has {file.size:,} bytes, and {limit:,} are allowed (max_bytes)")
        return await asyncio.to_thread(self._source.read, file, limit)


@asynccontextmanager
async def _open(
    profile: Profile, policy: Policy, decode_processes: int, opener: Opener | None
) -> AsyncIterator[tuple[LocalCascade, DecodePool, asyncio.Semaphore]]:
    async with local_cascade(profile, policy, opener) as cascade:
        pool = DecodePool(decode_processes)
        try:
            await pool.ready()
            yield cascade, pool, asyncio.Semaphore(MAX_CONCURRENT)
        finally:
            await pool.aclose()
