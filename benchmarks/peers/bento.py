"""BentoML: a service with an adaptive batch behind one that reads requests; for the cascade a third one."""

import asyncio
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import CASCADE, Judge, SignReader, unsure

told = Arguments.given()
LATEST_MS = int(1000 * told.limit_s)
STAYS = {"max_requests": 10**9}  # by default a connection ends after 100, and what is on its way fails
BATCHES = told.work.batch > 1  # it takes no batch of one
QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=told.first, logging=QUIET, runner_connection=STAYS)
class First:
    """The backbone. What may not take longer than the limit its batcher refuses."""

    def __init__(self) -> None:
        self._judge = Judge(told.model, told.threads)

    if BATCHES:

        @bentoml.api(batchable=True, max_batch_size=told.work.batch, max_latency_ms=LATEST_MS)
        def judge(self, bodies: list[bytes]) -> list[float]:
            """Return the probability of road work of each."""
            return self._judge.judge([self._judge.thumb(data) for data in bodies])

    @bentoml.api
    def judge_one(self, data: bytes) -> float:
        """Of one."""
        return self._judge.judge([self._judge.thumb(data)])[0]


@bentoml.service(workers=told.workers, logging=QUIET, runner_connection=STAYS)
class Second:
    """The sign reader."""

    def __init__(self) -> None:
        self._reader = SignReader(told.threads)

    @bentoml.api
    def read(self, data: bytes, before: float) -> float:
        """See `SignReader`."""
        return self._reader.read(data, before)


@bentoml.service(traffic={"timeout": told.limit_s, "max_concurrency": told.most}, logging=QUIET)
class Front:
    """Reads requests, asks the others."""

    first = bentoml.depends(First)
    if told.model == CASCADE:
        second = bentoml.depends(Second)

    @bentoml.api
    async def predict(self, photo: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, float]:
        """Return an answer to a photo."""
        data = await asyncio.to_thread(photo.read_bytes)
        if BATCHES:
            (said,) = await self.first.to_async.judge([data])
        else:
            said = await self.first.to_async.judge_one(data)
        if told.model == CASCADE and unsure(said):
            said = await self.second.to_async.read(data, said)
        return {"probability": float(said)}
