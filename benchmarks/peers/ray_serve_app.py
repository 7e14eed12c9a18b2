"""Ray Serve with `@serve.batch`: one deployment that decodes and classifies, and a second one for the cascade."""

import asyncio
import time
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import Classifier, SignReader, unsure

arguments = Arguments.from_environment()
# Per replica. As many again may queue, because HAProxy sends to each replica.
IN_FLIGHT = max(2, arguments.max_in_flight // (2 * arguments.first_stage_workers))


@serve.deployment(num_replicas=arguments.workers, max_ongoing_requests=4, ray_actor_options={"num_cpus": 0.5})
class SecondStage:
    """The sign reader."""

    def __init__(self, threads: int) -> None:
        self._reader = SignReader(threads)

    async def read(self, data: bytes, prior: float) -> float:
        """See `SignReader`."""
        return await asyncio.to_thread(self._reader.read, data, prior)


@serve.deployment(
    num_replicas=arguments.first_stage_workers,
    max_ongoing_requests=IN_FLIGHT,
    max_queued_requests=IN_FLIGHT,
    ray_actor_options={"num_cpus": 0.5},
)
class FirstStage:
    """The backbone, batched by its deployment."""

    def __init__(self, model: str, threads: int, second: DeploymentHandle | None) -> None:
        self._classifier, self._second = Classifier(model, threads), second

    @serve.batch(max_batch_size=arguments.workload.batch, batch_wait_timeout_s=0.01)
    async def _predict_batch(self, bodies: list[bytes]) -> list[float]:
        def run_batch() -> list[float]:
            return self._classifier.classify([self._classifier.thumb(data) for data in bodies])

        return await asyncio.to_thread(run_batch)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Return the prediction for a photo."""
        data = await request.body()
        probability = await self._predict_batch(data)
        if self._second is not None and unsure(probability):
            probability = await self._second.read.remote(data, probability)
        return {"probability": probability}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port, "request_timeout_s": arguments.limit_s})
    second = SecondStage.bind(arguments.threads) if arguments.workload.reads_signs else None
    serve.run(
        FirstStage.bind(arguments.model, arguments.threads, second),
        route_prefix="/predict",
        logging_config=LoggingConfig(enable_access_log=False),
    )
    while True:
        time.sleep(3600)
