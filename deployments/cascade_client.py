"""The cascade behind its Ray Serve handle, as the miner calls it."""

import asyncio
import logging
import socket
import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.stage_client import first_line
from roadwork_serve.errors import DeadlineExceeded, RoadworkError, StageFailed, StageLost
from roadwork_serve.schema import Verdict

_LOG = logging.getLogger("roadwork.app")  # of a process that is no replica
_LATE_S = 0.5  # after its deadline an answer of the ingress may come so late
_DOUBT_AFTER_S = 10.0  # a handle that was got this recently is not got anew: the cascade is only busy
_PATIENCE_S = 2.0  # for the address of the cluster, on this machine


class CascadeClient:
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
            raise StageFailed(f"{self._app} failed: {first_line(error.cause)}") from None
        except Exception as error:  # Ray has many for a process that is gone
            self._doubted = True
            raise StageLost(f"{self._app} is lost: {first_line(error)}") from None

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
                _LOG.warning("Application %s is gone: its Serve has stopped.", self._app)
            if self._handle is None or (self._doubted and time.monotonic() - self._since_s > _DOUBT_AFTER_S):
                try:
                    self._have(await asyncio.to_thread(self._cluster.connect))
                except StageLost as error:
                    if self._handle is not None:
                        _LOG.warning("%s", error)
                    self._have(None)

    def _have(self, handle: DeploymentHandle | None) -> None:
        if handle is not None and self._watcher is not None and self._handle is None:
            _LOG.info("Application %s is back.", self._app)
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
                f"({first_line(error).partition('. ')[0]}); start one with `make serve`, or name a server with --url"
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
