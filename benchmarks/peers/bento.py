"""BentoML: a service with adaptive batching behind one that reads requests, and a third one for the cascade."""

import asyncio
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Classifier, SignReader, unsure

arguments = Arguments.from_environment()
MAX_LATENCY_MS = int(1000 * arguments.limit_s)
KEEP_ALIVE = {"max_requests": 10**9}  # by default a connection is closed after 100 requests, and those in flight fail
BATCHED = arguments.workload.batch > 1  # BentoML does not support batches of one
QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=arguments.first_stage_workers, logging=QUIET, runner_connection=KEEP_ALIVE)
class First:
    """The backbone. Its batcher rejects requests that would exceed the limit."""

    def __init__(self) -> None:
        self._classifier = Classifier(arguments.model, arguments.threads)

    if BATCHED:

        @bentoml.api(batchable=True, max_batch_size=arguments.workload.batch, max_latency_ms=MAX_LATENCY_MS)
        def classify(self, bodies: list[bytes]) -> list[float]:
            """Return the probability of road work of each."""
            return self._classifier.classify([self._classifier.thumb(data) for data in bodies])

    @bentoml.api
    def classify_one(self, data: bytes) -> float:
        """Return the probability of road work of one photo."""
        return self._classifier.classify([self._classifier.thumb(data)])[0]


@bentoml.service(workers=arguments.workers, logging=QUIET, runner_connection=KEEP_ALIVE)
class Second:
    """The sign reader."""

    def __init__(self) -> None:
        self._reader = SignReader(arguments.threads)

    @bentoml.api
    def read(self, data: bytes, prior: float) -> float:
        """See `SignReader`."""
        return self._reader.read(data, prior)


@bentoml.service(traffic={"timeout": arguments.limit_s, "max_concurrency": arguments.max_in_flight}, logging=QUIET)
class Front:
    """Reads requests and calls the other services."""

    first = bentoml.depends(First)
    if arguments.workload.reads_signs:
        second = bentoml.depends(Second)

    @bentoml.api
    async def predict(self, photo: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, float]:
        """Return the prediction for a photo."""
        data = await asyncio.to_thread(photo.read_bytes)
        if BATCHED:
            (probability,) = await self.first.to_async.classify([data])
        else:
            probability = await self.first.to_async.classify_one(data)
        if arguments.workload.reads_signs and unsure(probability):
            probability = await self.second.to_async.read(data, probability)
        return {"probability": float(probability)}
