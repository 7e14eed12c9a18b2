"""What is behind a Ray Serve handle: a stage, as the cascade sees it, and the cascade, as the miner does."""

import asyncio
import contextlib
import contextvars
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from roadwork_serve.cascade.opinion import Item, Opinion, Sees
from roadwork_serve.errors import DeadlineExceeded, RoadworkError, StageDown, StageFailed, StageLost
from roadwork_serve.profiles.profile import StageName
from roadwork_serve.schema import Verdict

_LOG = logging.getLogger("ray.serve.roadwork.client")
_MINER_LOG = logging.getLogger("roadwork.app")  # of a process that is no replica
_LATE_S = 0.5  # after its deadline an answer of the ingress may come so late
_BENEFIT_OF_DOUBT_S = 0.5  # a stage that went down this recently may only have been slow: the probe will tell
_DOUBT_AFTER_S = 10.0  # a handle that was got this recently is not got anew: the cascade is only busy
_PATIENCE_S = 2.0  # for the address of the cluster, on this machine


class _Unreachable(Exception):
    """No answer came, for a reason that is not the stage's own word."""


class RayStageClient:
    """A StageClient over a deployment of `deployments.stages.StageReplica`.

    Serve holds a call until some replica can take it, so a call to a stage whose process has died would
    wait for the new one to load its model. Here a stage is down until a probe has come back, and down
    again when a call or a probe gets lost: calls then fail at once, and probing goes on until an answer
    brings it up. A lost probe also fails the calls in flight; a lost call does not, for the stage may
    have other processes. Needs a running event loop.

    timeout_s: a call that takes longer is lost. probe_s: between probes; one that takes twice as long brings the stage
    down, for new calls, and one that takes five times as long is lost. rests_after_s: without a call no more probes are
    sent until there is one, for a probe would wake a stage that sleeps.
    """

    def __init__(
        self,
        name: StageName,
        handle: DeploymentHandle,
        timeout_s: float,
        probe_s: float = 1.0,
        rests_after_s: float | None = None,
    ) -> None:
        self.name = name
        self._rests_after_s = rests_after_s
        self._used_s = time.monotonic()
        self._handle = handle
        self._timeout_s = timeout_s
        self._probe_s = probe_s
        self._sees: Sees = "both"
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
        """Whether the stage answered when it was last asked."""
        return self._up

    async def warm(self) -> None:
        """Returns once the stage has answered for the first time."""
        await self._warm.wait()

    async def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """One opinion an item, in order. Raises StageFailed for what the stage itself says, StageLost when no answer
        came, StageDown at once while the stage is down.

        Within moments of going down a call waits for the probe instead: one call that took too long must not
        throw away all that waits behind it.

        A cancelled call ends when the stage has let go of it, so whoever counts calls in flight counts right.
        """
        if self._resting:
            self._probe_now.set()
        self._used_s = time.monotonic()
        if not await self._is_up(min((item.left_s() for item in items), default=0.0)):
            raise StageDown(f"{self.name} is down; it is skipped until it answers again")
        slim = [item.slim(self._sees) for item in items]
        left_s = [item.left_s() for item in items]  # monotonic clocks of two machines share no zero
        try:
            return await self._call("judge", self.name, slim, left_s, within_s=self._timeout_s, lost=self._lost)
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
            probe = asyncio.create_task(self._call("introduce", self.name, within_s=5 * self._probe_s))
            try:
                if not (await asyncio.wait([probe], timeout=2 * self._probe_s))[0]:
                    self._mark_down(_Unreachable(f"no answer in {2 * self._probe_s:g} s"))
                self._sees = await probe
            except Exception as error:
                self._mark_down(error)
                self._lost.cancel()
                self._lost = asyncio.get_running_loop().create_future()
            else:
                self._mark_up()
            finally:
                probe.cancel()
            if self._resting:
                await self._probe_now.wait()
                continue
            try:
                async with asyncio.timeout(self._probe_s if self._up else self._probe_s / 4):
                    await self._probe_now.wait()
            except TimeoutError:
                pass

    @property
    def _resting(self) -> bool:
        """Whether it has been up, and nobody has asked for so long that it is left alone."""
        quiet_s = time.monotonic() - self._used_s
        return self._rests_after_s is not None and self._warm.is_set() and quiet_s > self._rests_after_s

    async def _is_up(self, left_s: float) -> bool:
        doubt_s = min(left_s, self._down_since_s + _BENEFIT_OF_DOUBT_S - time.monotonic())
        if not self._up and self._warm.is_set() and doubt_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(doubt_s):
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
            raise _Unreachable("it went down" if lost is not None and lost.done() else f"no answer in {within_s:g} s")
        if answer.cancelled():
            raise _Unreachable("its process let go of the call")
        match answer.exception():
            case None:
                return answer.result()
            case RayTaskError() as error:  # the stage's own word: it lives
                raise StageFailed(f"{self.name} failed: {error.cause}") from None
            case error:
                raise _Unreachable(f"{type(error).__name__}: {_first_line(error)}") from None


class AppCascade:
    """The ingress of an application by its handle, for a process beside Serve on a node of its cluster.

    A watcher notices when Serve, or all of Ray, has gone, and connects anew once it has come back. Ray must be left
    in time: it ends the process of a driver whose cluster has been gone for a minute.

    watch_s: between looks at the cluster.
    """

    def __init__(self, app: str, cluster: "Cluster | None" = None, watch_s: float = 2.0) -> None:
        self._app = app
        self._cluster = cluster or Cluster(app)
        self._watch_s = watch_s
        self._handle: DeploymentHandle | None = None
        self._since_s = 0.0
        self._doubted = False  # a call got lost or took too long, which the handle may be to blame for
        self._watcher: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Connect, before the first call. Raises StageLost where there is no such application."""
        self._have(await asyncio.to_thread(self._cluster.connect))
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self._app}")

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        """The verdict on a file. Raises any error of the tree; StageLost while there is no application."""
        if self._handle is None:
            raise StageLost(f"{self._app} is gone; it is asked again once it is back")
        try:
            async with asyncio.timeout(deadline_ms / 1000 + _LATE_S):
                return await self._handle.classify.remote(data, deadline_ms, request_id, key)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._doubted = True
            raise StageLost(f"{self._app} let go of the call") from None
        except TimeoutError:
            self._doubted = True
            raise DeadlineExceeded(f"{self._app} did not answer in time") from None
        except RayTaskError as error:
            if isinstance(error.cause, RoadworkError):
                raise error.cause from None
            raise StageFailed(f"{self._app} failed: {_first_line(error.cause)}") from None
        except Exception as error:  # Ray has many for a process that is gone
            self._doubted = True
            raise StageLost(f"{self._app} is lost: {_first_line(error)}") from None

    async def aclose(self) -> None:
        """Leave the cluster."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await asyncio.to_thread(self._cluster.leave)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            if self._handle is not None and not await asyncio.to_thread(self._cluster.up):
                self._have(None)
                _MINER_LOG.warning("Application %s is gone: its Serve has stopped.", self._app)
            if self._handle is None or (self._doubted and time.monotonic() - self._since_s > _DOUBT_AFTER_S):
                try:
                    self._have(await asyncio.to_thread(self._cluster.connect))
                except StageLost as error:
                    if self._handle is not None:
                        _MINER_LOG.warning("%s", error)
                    self._have(None)

    def _have(self, handle: DeploymentHandle | None) -> None:
        if handle is not None and self._watcher is not None and self._handle is None:
            _MINER_LOG.info("Application %s is back.", self._app)
        self._handle, self._since_s, self._doubted = handle, time.monotonic(), False


class Cluster:
    """Ray on this machine, and an application of its Serve. All of it blocks."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._controller: Any = None
        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it minds being started by a thread

    def connect(self) -> DeploymentHandle:
        """Raises StageLost where there is no Ray, no Serve, or no such application.

        A Ray that is there is stayed in while Serve starts or starts again: to join one is the dear part.
        """
        try:
            if ray.is_initialized() and not self._there():
                self.leave()
            if not ray.is_initialized():
                ray.init(address="auto", namespace="serve", log_to_driver=False, configure_logging=False)
            handle = serve.get_app_handle(self._app)
            self._controller = _controller()
            return handle
        except Exception as error:
            if not isinstance(error, RayServeException):
                self.leave()
            raise StageLost(
                f"there is no application {self._app} of Ray Serve on this machine "
                f"({_first_line(error).partition('. ')[0]}); start one with `make serve`, or name a server with --url"
            ) from None

    def up(self) -> bool:
        """Whether Ray and the same Serve are still there."""
        try:
            return self._there() and _controller() == self._controller
        except Exception:  # Ray has many for what is gone
            return False

    def leave(self) -> None:
        """Forget the cluster, and what was in flight."""
        ray.shutdown()

    def _there(self) -> bool:
        """Whether anybody listens where Ray did."""
        try:
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
            return True
        except OSError:
            return False


def _controller() -> Any:
    return ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)


def _forget(answer: "asyncio.Future[Any]") -> None:
    """Nobody waits for it any more; its error, if any, concerns nobody."""
    answer.cancel()
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
