"""A client of the cascade over its Ray Serve handle, for the miner."""

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
from roadwork_serve.running_server import cluster_address
from roadwork_serve.schema import Verdict

_LOG = logging.getLogger("roadwork.cascade_client")  # this process is not a Serve replica
_GRACE_S = 0.5  # time after the deadline in which an answer of the ingress is accepted
_MIN_HANDLE_AGE_S = 10.0  # a younger handle is not replaced after a lost call: the cascade is only busy
_CONNECT_TIMEOUT_S = 2.0  # to the address of the cluster


class CascadeClient:
    """The ingress of an application, for a process beside Serve on a node of its cluster.

    A watcher notices when Serve, or all of Ray, has gone, and connects again when it is back. Ray must be left in time:
    it ends a driver process whose cluster has been gone for a minute.

    Args:
        app: Name of the application.
        cluster: The cluster; by default the one of this user's server.
        watch_s: Interval of checks in seconds.
    """

    def __init__(self, app: str, cluster: "Cluster | None" = None, watch_s: float = 2.0) -> None:
        self._app = app
        self._cluster = cluster or Cluster(app)
        self._watch_s = watch_s
        self._handle: DeploymentHandle | None = None
        self._since_s = 0.0
        self._suspect = False  # a call was lost or too slow, possibly because of the handle
        self._watcher: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Connect, before the first call. Raises StageLost if there is no such application."""
        self._set_handle(await asyncio.to_thread(self._cluster.connect))
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self._app}")

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        """Return the verdict on a file. Raises any error of the tree, and StageLost while there is no application."""
        if self._handle is None:
            raise StageLost(f"{self._app} is gone; calls resume when it is back")
        try:
            async with asyncio.timeout(deadline_ms / 1000 + _GRACE_S):
                return await self._handle.classify.remote(data, deadline_ms, request_id, key)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._suspect = True
            raise StageLost(f"{self._app} dropped the call") from None
        except TimeoutError:
            self._suspect = True
            raise DeadlineExceeded(f"{self._app} did not answer in time") from None
        except RayTaskError as error:
            if isinstance(error.cause, RoadworkError):
                raise error.cause from None
            raise StageFailed(f"{self._app} failed: {first_line(error.cause)}") from None
        except Exception as error:  # Ray raises many kinds for a process that is gone
            self._suspect = True
            raise StageLost(f"{self._app} is lost: {first_line(error)}") from None

    async def aclose(self) -> None:
        """Disconnect from the cluster."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await asyncio.to_thread(self._cluster.leave)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            if self._handle is not None and not await asyncio.to_thread(self._cluster.up):
                self._set_handle(None)
                _LOG.warning("Application %s is gone: Serve has stopped.", self._app)
            if self._handle is None or (self._suspect and time.monotonic() - self._since_s > _MIN_HANDLE_AGE_S):
                try:
                    self._set_handle(await asyncio.to_thread(self._cluster.connect))
                except StageLost as error:
                    if self._handle is not None:
                        _LOG.warning("%s", error)
                    self._set_handle(None)

    def _set_handle(self, handle: DeploymentHandle | None) -> None:
        if handle is not None and self._watcher is not None and self._handle is None:
            _LOG.info("Application %s is back.", self._app)
        self._handle, self._since_s, self._suspect = handle, time.monotonic(), False


class Cluster:
    """An application of Serve, in the Ray of this user's server or the one in RAY_ADDRESS. Every method blocks."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._controller: Any = None
        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it warns when a thread starts Ray

    def connect(self) -> DeploymentHandle:
        """Return the handle. Raises StageLost if there is no Ray, no Serve, or no such application.

        The connection to Ray is kept open while Serve starts or restarts, because connecting is expensive.
        """
        try:
            if ray.is_initialized() and not self._reachable(ray.get_runtime_context().gcs_address):
                self.leave()
            if not ray.is_initialized():
                address = cluster_address()
                if not self._reachable(address):  # Ray would try for minutes
                    raise StageLost(f"nothing answers at {address}")
                ray.init(address=address, namespace="serve", log_to_driver=False, configure_logging=False)
            handle = serve.get_app_handle(self._app)
            self._controller = _controller()
            return handle
        except Exception as error:
            if not isinstance(error, RayServeException):
                self.leave()
            raise StageLost(
                f"there is no application {self._app} of Ray Serve ({first_line(error).partition('. ')[0]}); "
                "start one with `make serve`, name its cluster in RAY_ADDRESS, or name a server with --server"
            ) from None

    def up(self) -> bool:
        """Return whether Ray and the same Serve are still running."""
        try:
            return self._reachable(ray.get_runtime_context().gcs_address) and _controller() == self._controller
        except Exception:  # Ray raises many kinds for what is gone
            return False

    def leave(self) -> None:
        """Disconnect, and drop the calls in flight."""
        ray.shutdown()

    def _reachable(self, address: str) -> bool:
        """Return whether an address accepts connections. One without a port, such as "auto", is left to Ray."""
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or "://" in address:
            return True
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
            return True
        except OSError:
            return False


def _controller() -> Any:
    return ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
