"""Ray Serve with `@serve.batch`: one deployment that decodes and judges."""

import asyncio
import sys
import time
from typing import Any

from ray import serve
from starlette.requests import Request

from benchmarks.peers.model import BATCH, Judge


@serve.deployment(max_ongoing_requests=4 * BATCH, ray_actor_options={"num_cpus": 1})
class Batched:
    """The model, batched by its deployment."""

    def __init__(self, model: str, threads: int) -> None:
        self._judge = Judge(model, threads)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)
    async def _answers(self, bodies: list[bytes]) -> list[float]:
        def work() -> list[float]:
            return self._judge.judge([self._judge.thumb(data) for data in bodies])

        return await asyncio.to_thread(work)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """An answer to a photo."""
        return {"probability": await self._answers(await request.body())}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Batched.bind(sys.argv[2], int(sys.argv[3])), route_prefix="/predict")
    while True:
        time.sleep(3600)
