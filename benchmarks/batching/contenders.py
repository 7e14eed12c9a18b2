"""The batchers that are compared, and the simulation of one of them over given arrivals."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from ray import serve

from benchmarks.batching import virtual
from benchmarks.batching.model import Model
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.prediction import Item, StagePrediction

DEADLINE_S = 1e5  # ample, so that no item misses it
MAX_QUEUE = 1_000_000  # never reached, so nothing is rejected
_THUMB = np.zeros((1, 1, 1, 3), np.uint8)


class Server:
    """A simulated server with one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._busy = False
        #: Batch size of each call so far.
        self.batches: list[int] = []

    async def call(self, items: int) -> None:
        """Simulate a call. Raises RuntimeError if another is running."""
        if self._busy:
            raise RuntimeError("two concurrent calls; the model takes one at a time")
        self._busy = True
        self.batches.append(items)
        await asyncio.sleep(self._model.call_us(items) / 1e6)
        self._busy = False


Submit = Callable[[], Awaitable[object]]
Contender = Callable[[Server, Model], Submit]


def roadwork_batcher(server: Server, model: Model) -> Submit:
    """Return the submit function of this project's batcher."""

    class Client:
        async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
            await server.call(len(items))
            return [StagePrediction(0.0, model="simulated") for _ in items]

    batcher = Batcher(
        Client(), max_batch=model.max_batch, slots=1, max_queue=MAX_QUEUE, timeout_s=DEADLINE_S, name="simulated"
    )
    return lambda: batcher.submit(Item("", "photo", (), _THUMB, (0.0,), time.monotonic() + DEADLINE_S))


def serve_batch(wait_s: float) -> Contender:
    """Return Ray Serve's `@serve.batch` with this batch_wait_timeout_s.

    Inside a replica it would read the limit on ongoing requests from the context; here the context allows any number.
    """

    def contender(server: Server, model: Model) -> Submit:
        @serve.batch(max_batch_size=model.max_batch, batch_wait_timeout_s=wait_s, max_concurrent_batches=1)
        async def predict(items: list[None]) -> list[None]:
            await server.call(len(items))
            return items

        return lambda: predict(None)

    return contender


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """The results of a run."""

    #: Latency of each item, from the time it was due.
    latencies_s: tuple[float, ...]
    #: Batch sizes, in order.
    sizes: tuple[int, ...]
    #: Processor time of the event loop and the batcher per item; None for a computed schedule.
    cpu_us: float | None = None


def simulate(contender: Contender, model: Model, due_us: Sequence[int], warmup_us: Sequence[int] = ()) -> SimulatedRun:
    """Return a run in virtual time.

    The arrivals in `warmup_us` come first and are not counted; then the model becomes idle.
    """
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=MAX_QUEUE))
    with patch.object(serve, "get_replica_context", lambda: context):
        return virtual.run(_simulate(contender, model, due_us, warmup_us))


async def _simulate(
    contender: Contender, model: Model, due_us: Sequence[int], warmup_us: Sequence[int]
) -> SimulatedRun:
    server = Server(model)
    submit = contender(server, model)
    await _replay_arrivals(submit, warmup_us)
    server.batches.clear()
    began = time.process_time()
    latencies_s = await _replay_arrivals(submit, due_us)
    cpu_us = 1e6 * (time.process_time() - began) / len(due_us)
    await _cancel(asyncio.all_tasks() - {asyncio.current_task()})
    del submit
    gc.collect()  # collect Ray's queue while a loop runs; otherwise it creates one and leaves it open
    return SimulatedRun(latencies_s, tuple(server.batches), cpu_us)


async def _cancel(tasks: Set[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # the loop keeps references to cancelled tasks until its next iteration


async def _replay_arrivals(submit: Submit, due_us: Sequence[int]) -> tuple[float, ...]:
    """Submit each item when it is due, without waiting for earlier ones. Returns the latencies once all are done."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    latencies_s = [0.0] * len(due_us)

    async def one(at: int, due_s: float) -> None:
        await submit()
        latencies_s[at] = loop.time() - due_s

    async with asyncio.TaskGroup() as group:
        for at, due in enumerate(due_us):
            due_s = began_s + due / 1e6
            if due_s > loop.time():
                await asyncio.sleep(due_s - loop.time())
            group.create_task(one(at, due_s))
    return tuple(latencies_s)
