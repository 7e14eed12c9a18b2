"""A stage behind its Ray Serve handle, as the cascade calls it."""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.errors import StageDown, StageFailed, StageLost
from roadwork_serve.profiles.stage_kinds import StageName

_LOG = logging.getLogger("ray.serve.roadwork.stage_client")
_RECOVERY_WAIT_S = 0.5  # a stage that went down this recently may only be slow: a call waits for the next probe
_QUIET_AFTER_S = 30.0  # without a call
_QUIET = 5  # times longer is the interval of probes then: at rest they would be most of what a server does


class _Unreachable(Exception):
    """A call got no answer, for another reason than an error that the stage itself reported."""


class RayStageClient:
    """A StageClient over a deployment of `deployments.stage_replica.StageReplica`. Needs a running event loop.

    Serve queues a call until a replica can take it, so a call to a stage whose process has died would wait for the new
    one to load its model. Here a stage is down until a probe has returned, and down again when a call or a probe is
    lost: calls then fail at once, and probing continues until an answer brings the stage up. A lost probe also fails
    the calls in flight; a lost call does not, because the stage may have other processes.

    Args:
        name: Name of the stage.
        handle: The stage's deployment.
        timeout_s: Timeout of a call, in seconds; a slower one is lost.
        probe_s: Interval of probes, longer where there were no calls for a while. A probe that takes twice as long
            brings the stage down for new calls; one that takes five times as long is lost.
        idle_after_s: Time without a call after which probing pauses until the next call, because a probe would wake a
            stage that has scaled to zero. None for never.
    """

    def __init__(
        self,
        name: StageName,
        handle: DeploymentHandle,
        timeout_s: float,
        probe_s: float = 1.0,
        idle_after_s: float | None = None,
    ) -> None:
        self.name = name
        self._idle_after_s = idle_after_s
        self._used_s = time.monotonic()
        self._handle = handle
        self._timeout_s = timeout_s
        self._probe_s = probe_s
        #: Input that the stage uses, as far as is known.
        self.sees: StageInput = "both"
        self._up = False
        self._back = asyncio.Event()  # set while it is up
        self._down_since_s = 0.0
        self._lost = asyncio.get_running_loop().create_future()  # cancelled, and replaced, when a probe is lost
        self._warm = asyncio.Event()
        self._probe_now = asyncio.Event()
        # Calls must not belong to the request in whose task they happen to be made: Serve cancels the calls
        # of a request whose client hangs up, and a batch carries the items of many.
        self._context = contextvars.copy_context()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {name}")

    @property
    def up(self) -> bool:
        """True if the stage answered its last probe or call."""
        return self._up

    async def warm(self) -> None:
        """Wait until the stage has answered for the first time."""
        await self._warm.wait()

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return one prediction for each item, in order.

        Raises StageFailed for an error that the stage reports, StageLost if no answer came, and StageDown at once while
        the stage is down. Just after it went down, a call waits for the next probe instead, so that one slow call does
        not fail all that are queued behind it. On cancellation, waits until the stage has released the call, so that
        the in-flight count stays accurate.
        """
        if self._idle or self._quiet:
            self._probe_now.set()
        self._used_s = time.monotonic()
        if not await self._is_up(min((item.left_s() for item in items), default=0.0)):
            raise StageDown(f"{self.name} is down and skipped until it answers again")
        slim = [item.slim(self.sees) for item in items]
        left_s = [item.left_s() for item in items]  # monotonic clocks of two machines share no zero
        try:
            return await self._call("predict", self.name, slim, left_s, within_s=self._timeout_s, lost=self._lost)
        except _Unreachable as error:
            self._mark_down(error)
            raise StageLost(f"{self.name} is lost: {error}") from error

    async def aclose(self) -> None:
        """Stop probing and fail the calls in flight."""
        self._watcher.cancel()
        await asyncio.wait([self._watcher])
        self._up = False
        self._lost.cancel()

    async def _watch(self) -> None:
        while True:
            self._probe_now.clear()
            probe = asyncio.create_task(self._call("describe", self.name, within_s=5 * self._probe_s))
            try:
                if not (await asyncio.wait([probe], timeout=2 * self._probe_s))[0]:
                    self._mark_down(_Unreachable(f"no answer in {2 * self._probe_s:g} s"))
                self.sees = await probe
            except Exception as error:
                self._mark_down(error)
                self._lost.cancel()
                self._lost = asyncio.get_running_loop().create_future()
            else:
                self._mark_up()
            finally:
                probe.cancel()
            if self._idle:
                await self._probe_now.wait()
                continue
            try:
                interval_s = self._probe_s * (_QUIET if self._quiet else 1) if self._up else self._probe_s / 4
                async with asyncio.timeout(interval_s):
                    await self._probe_now.wait()
            except TimeoutError:
                pass

    @property
    def _idle(self) -> bool:
        """True if the stage has been up, and without a call for so long that probing pauses."""
        return self._idle_after_s is not None and self._warm.is_set() and self._unused_s > self._idle_after_s

    @property
    def _quiet(self) -> bool:
        """True if there was no call for a while."""
        return self._unused_s > _QUIET_AFTER_S

    @property
    def _unused_s(self) -> float:
        """Seconds since the last call."""
        return time.monotonic() - self._used_s

    async def _is_up(self, left_s: float) -> bool:
        wait_s = min(left_s, self._down_since_s + _RECOVERY_WAIT_S - time.monotonic())
        if not self._up and self._warm.is_set() and wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._back.wait()
        return self._up

    def _mark_up(self) -> None:
        if not self._up:
            self._up = True
            self._back.set()
            self._warm.set()
            _LOG.info("Stage %s is up.", self.name)

    def _mark_down(self, error: Exception) -> None:
        if self._up:
            self._up = False
            self._back.clear()
            self._down_since_s = time.monotonic()
            self._probe_now.set()
            _LOG.warning("Stage %s is down: %s", self.name, str(error))

    async def _call(self, method: str, *args: Any, within_s: float, lost: asyncio.Future[None] | None = None) -> Any:
        response = self._context.copy().run(getattr(self._handle, method).remote, *args)
        answer = asyncio.ensure_future(response)
        give_up_at = time.monotonic() + within_s
        watched = [answer] if lost is None else [answer, lost]
        try:
            await asyncio.wait(watched, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            response.cancel()
            left_s = max(0.0, give_up_at - time.monotonic())
            await asyncio.wait(watched, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            _forget(answer)
            raise
        if not answer.done():
            response.cancel()
            _forget(answer)
            raise _Unreachable(
                "the stage went down" if lost is not None and lost.done() else f"no answer in {within_s:g} s"
            )
        if answer.cancelled():
            raise _Unreachable("its process dropped the call")
        match answer.exception():
            case None:
                return answer.result()
            case RayTaskError() as error:  # reported by the stage, so its process is alive
                raise StageFailed(f"{self.name} failed: {error.cause}") from None
            case error:
                raise _Unreachable(f"{type(error).__name__}: {first_line(error)}") from None


def _forget(answer: "asyncio.Future[Any]") -> None:
    """Cancel a call whose caller has gone, and ignore its error."""
    answer.cancel()
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, empty where it has none."""
    return (str(error).strip().splitlines() or [""])[0]
