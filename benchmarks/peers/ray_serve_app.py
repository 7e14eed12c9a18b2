"""Ray Serve with `@serve.batch`: one deployment that decodes and judges; for the cascade a second one behind it."""

import asyncio
import time
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import CASCADE, Judge, SignReader, unsure

told = Arguments.given()
IN_WORK = max(2, told.most // (2 * told.first))  # of a replica; as many again may wait for it, for HAProxy asks each


@serve.deployment(num_replicas=told.workers, max_ongoing_requests=4, ray_actor_options={"num_cpus": 0.5})
class Second:
    """The sign reader."""

    def __init__(self, threads: int) -> None:
        self._reader = SignReader(threads)

    async def read(self, data: bytes, before: float) -> float:
        """See `SignReader`."""
        return await asyncio.to_thread(self._reader.read, data, before)


@serve.deployment(
    num_replicas=told.first,
    max_ongoing_requests=IN_WORK,
    max_queued_requests=IN_WORK,
    ray_actor_options={"num_cpus": 0.5},
)
class First:
    """The backbone, batched by its deployment."""

    def __init__(self, model: str, threads: int, second: DeploymentHandle | None) -> None:
        self._judge, self._second = Judge(model, threads), second

    @serve.batch(max_batch_size=told.work.batch, batch_wait_timeout_s=0.01)
    async def _answers(self, bodies: list[bytes]) -> list[float]:
        def work() -> list[float]:
            return self._judge.judge([self._judge.thumb(data) for data in bodies])

        return await asyncio.to_thread(work)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Return an answer to a photo."""
        data = await request.body()
        said = await self._answers(data)
        if self._second is not None and unsure(said):
            said = await self._second.read.remote(data, said)
        return {"probability": said}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": told.port, "request_timeout_s": told.limit_s})
    second = Second.bind(told.threads) if told.model == CASCADE else None
    serve.run(
        First.bind(told.model, told.threads, second),
        route_prefix="/predict",
        logging_config=LoggingConfig(enable_access_log=False),
    )
    while True:
        time.sleep(3600)
