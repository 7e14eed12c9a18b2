"""A Serve handle without Ray, as far as the client of a stage uses it."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from ray.serve.exceptions import RequestCancelledError

from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.profiles.stage_kinds import StageName


async def until(holds: Callable[[], bool], within_s: float = 2.0) -> None:
    """Let the loop run until the condition holds. Fails after so many seconds of the loop's clock."""
    give_up_at = asyncio.get_running_loop().time() + within_s
    while not holds():
        assert asyncio.get_running_loop().time() < give_up_at
        await asyncio.sleep(0)


class FakeResponse:
    """An awaitable call that can be cancelled, and then raises what Serve's DeploymentResponse raises."""

    def __init__(self, work: Awaitable[Any]) -> None:
        self._task = asyncio.ensure_future(work)
        self._cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from asyncio.shield(self._task).__await__())
        except asyncio.CancelledError:
            if self._cancelled:
                raise RequestCancelledError("r") from None
            raise

    def cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()


class FakeMethod:
    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    def remote(self, *args: Any) -> FakeResponse:
        return FakeResponse(self._call(*args))


class FakeHandle:
    """A stage that predicts road work for everything, unless it is set to fail, to hang or to drop calls.

    error: raised by every call. probe_error: raised by probes only. hangs: no call ends by itself. seen: the items
    received, with the time left.
    """

    def __init__(self, sees: str = "thumbs") -> None:
        self.error: BaseException | None = None
        self.probe_error: BaseException | None = None
        self.hangs = False
        self.seen: list[tuple[Item, float]] = []
        self.probes = 0
        self.cancelled = 0
        self._hanging: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked = asyncio.Event()
        self._sees = sees
        self.predict = FakeMethod(self._predict)
        self.describe = FakeMethod(self._describe)

    def let_go(self) -> None:
        """Stop hanging and answer the pending calls."""
        self.hangs = False
        self._hanging.set_result(None)

    async def _answer(self) -> None:
        if self.error:
            raise self.error
        if self.hangs:
            try:
                await asyncio.shield(self._hanging)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    async def _predict(self, name: StageName, items: Sequence[Item], left_s: Sequence[float]) -> list[StagePrediction]:
        self.seen += zip(items, left_s, strict=True)
        self.asked.set()
        await self._answer()
        return [StagePrediction(4.0, "fake") for _ in items]

    async def _describe(self, name: StageName) -> str:
        self.probes += 1
        if self.probe_error:
            raise self.probe_error
        await self._answer()
        return self._sees
