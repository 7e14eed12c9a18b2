"""Fake stages and clients with programmed predictions."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.prediction import Item, StageClient, StageInput, StagePrediction
from roadwork_serve.schema import Evidence

_THUMB = np.zeros((1, 16, 16, 3), np.uint8)


def item(request_id: str = "r1", left_s: float = 60.0, kind: Literal["photo", "clip"] = "photo") -> Item:
    """Return an item whose deadline is `left_s` seconds away."""
    return Item(request_id, kind, (b"jpeg",), _THUMB, (0.0,), time.monotonic() + left_s)


def prediction(logit: float | None = 0.0, *, text_probability: float | None = None, **fields: Any) -> StagePrediction:
    """Return a prediction of a model named fake."""
    fields.setdefault("model", "fake")
    return StagePrediction(logit, evidence=Evidence(text_probability=text_probability), **fields)


def batcher(client: StageClient, **settings: Any) -> Batcher:
    """Return a batcher with generous limits by default."""
    return Batcher(
        client, **{"max_batch": 8, "slots": 1, "max_queue": 64, "timeout_s": 30.0, "name": "fake"} | settings
    )


class InstantClient:
    """Answers at once with the result of `respond` for each item; an exception as a result fails the call."""

    sees: StageInput = "both"

    def __init__(self, respond: Callable[[Item], StagePrediction | Exception]) -> None:
        self.respond = respond
        self.batches: list[list[str]] = []

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        self.batches.append([each.request_id for each in items])
        results = [self.respond(each) for each in items]
        for each in results:
            if isinstance(each, Exception):
                raise each
        return [each for each in results if isinstance(each, StagePrediction)]


@dataclass(eq=False)
class GatedCall:
    """A call that hangs until the test answers it."""

    items: list[Item]
    gate: asyncio.Future[list[StagePrediction]]
    cancelled: bool = False

    @property
    def ids(self) -> list[str]:
        return [each.request_id for each in self.items]

    def answer(self, logit: float | None = 0.0) -> None:
        """Return predictions; the model of each is the id of its item."""
        self.gate.set_result([StagePrediction(logit, model=each.request_id) for each in self.items])


@dataclass
class GatedClient:
    """Blocks every call until the test answers it."""

    calls: list[GatedCall] = field(default_factory=list)
    sees: StageInput = "both"

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        call = GatedCall(list(items), asyncio.get_running_loop().create_future())
        self.calls.append(call)
        try:
            return await call.gate
        except asyncio.CancelledError:
            call.cancelled = True
            raise


class FakeStage:
    """A blocking stage that returns the predictions of `respond`."""

    sees: StageInput = "both"

    def __init__(
        self, name: str = "backbone", respond: Callable[[Item], StagePrediction] = lambda _: prediction(1.0)
    ) -> None:
        self.name = name
        self.respond = respond
        self.warmed = 0
        self.batches: list[list[str]] = []

    def warm(self) -> None:
        self.warmed += 1

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        self.batches.append([each.request_id for each in items])
        return [self.respond(each) for each in items]


class BlockedStage(FakeStage):
    """Blocks its thread until the test sets `leave`; `entered` is set once a call has arrived."""

    def __init__(self, respond: Callable[[Item], StagePrediction] = lambda _: prediction(1.0)) -> None:
        super().__init__(respond=respond)
        self.entered = threading.Event()
        self.leave = threading.Event()

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        self.entered.set()
        assert self.leave.wait(30)
        return super().predict(items)


async def settle() -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(10):
        await asyncio.sleep(0)
