"""The batchers that are compared, and a run of one of them over given arrivals."""

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

AMPLE_S = 1e5  # for deadlines, which are not what is measured here
ROOM = 1_000_000  # for items that wait: nothing is refused
_THUMB = np.zeros((1, 1, 1, 3), np.uint8)


class Server:
    """The model at work. batches: items of each call so far."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._busy = False
        self.batches: list[int] = []

    async def call(self, items: int) -> None:
        """One call. Raises RuntimeError if another runs."""
        if self._busy:
            raise RuntimeError("two calls at once; the model takes one at a time")
        self._busy = True
        self.batches.append(items)
        await asyncio.sleep(self._model.call_us(items) / 1e6)
        self._busy = False


Submit = Callable[[], Awaitable[object]]
Contender = Callable[[Server, Model], Submit]


def ours(server: Server, model: Model) -> Submit:
    """Return this project's."""

    class Client:
        async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
            await server.call(len(items))
            return [StagePrediction(0.0, model="stand-in") for _ in items]

    batcher = Batcher(Client(), max_batch=model.max_batch, slots=1, max_queue=ROOM, timeout_s=AMPLE_S, name="stand-in")
    return lambda: batcher.submit(Item("", "photo", (), _THUMB, (0.0,), time.monotonic() + AMPLE_S))


def rays(wait_s: float) -> Contender:
    """Ray Serve's `@serve.batch`, with this batch_wait_timeout_s.

    In a replica it would find there how many requests may be at it at once; here it is told that there is room for all.
    """

    def contender(server: Server, model: Model) -> Submit:
        @serve.batch(max_batch_size=model.max_batch, batch_wait_timeout_s=wait_s, max_concurrent_batches=1)
        async def predict(items: list[None]) -> list[None]:
            await server.call(len(items))
            return items

        return lambda: predict(None)

    return contender


@dataclass(frozen=True, slots=True)
class Served:
    """The results of a run."""

    #: Latency of each item, from when it was due.
    latencies_s: tuple[float, ...]
    #: Batch sizes, in order.
    sizes: tuple[int, ...]
    #: Processor time of the event loop and the batcher per item; None if neither ran.
    own_us: float | None = None


def served(contender: Contender, model: Model, due_us: Sequence[int], warm_us: Sequence[int] = ()) -> Served:
    """Return a run in virtual time. warm_us: what comes before and is not counted; then the model comes to rest."""
    room = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=ROOM))
    with patch.object(serve, "get_replica_context", lambda: room):
        return virtual.run(_served(contender, model, due_us, warm_us))


async def _served(contender: Contender, model: Model, due_us: Sequence[int], warm_us: Sequence[int]) -> Served:
    server = Server(model)
    submit = contender(server, model)
    await _played(submit, warm_us)
    server.batches.clear()
    began = time.process_time()
    latencies_s = await _played(submit, due_us)
    own_us = 1e6 * (time.process_time() - began) / len(due_us)
    await _ended(asyncio.all_tasks() - {asyncio.current_task()})
    del submit
    gc.collect()  # Ray's queue must go while a loop runs: it makes itself one otherwise, and leaves it open
    return Served(latencies_s, tuple(server.batches), own_us)


async def _ended(tasks: Set[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # the loop itself holds what woke it until its next turn, and with it all that was cancelled


async def _played(submit: Submit, due_us: Sequence[int]) -> tuple[float, ...]:
    """Submit each item when it is due, whatever has become of those before, and wait for all."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    took_s = [0.0] * len(due_us)

    async def one(at: int, due_s: float) -> None:
        await submit()
        took_s[at] = loop.time() - due_s

    async with asyncio.TaskGroup() as group:
        for at, due in enumerate(due_us):
            due_s = began_s + due / 1e6
            if due_s > loop.time():
                await asyncio.sleep(due_s - loop.time())
            group.create_task(one(at, due_s))
    return tuple(took_s)
