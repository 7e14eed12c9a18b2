"""Ray on this machine: without processes that one server has no use for, and with its dashboard once there is time."""

import logging
import threading
from functools import partial

import ray
from ray._private import parameter
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray.serve._private.constants import SERVE_NAMESPACE

from deployments.priority import lower_priority
from roadwork_serve.replaced import replaced

OFF, FAILED = "off", "has not started; see dashboard.log in the folder of Ray's session"
_NICENESS = 10


class Dashboard:
    """The dashboard of a Ray: a dozen processes, whose start takes seconds of a core from those that serve."""

    def __init__(self, url: str | None = None, node: Node | None = None) -> None:
        """Describe a dashboard.

        Args:
            url: URL of one that runs, without scheme; None if it is left out.
            node: node whose dashboard may be started.
        """
        self._url, self._node = url, node
        self._said = OFF if node is None else FAILED
        self._tried = threading.Event()
        if node is None:
            self._tried.set()

    def start(self) -> None:
        """Start it in the background, with a low priority, if it is to be started and has not been."""
        node, self._node = self._node, None
        if node is not None:
            threading.Thread(target=self._run, args=(node,), name="dashboard", daemon=True).start()

    def url(self) -> str:
        """Start it if need be, wait for it, and return its URL, or why there is none."""
        self.start()
        self._tried.wait()
        return f"http://{self._url}" if self._url else self._said

    def stop(self) -> None:
        """Start nothing any more, and say nothing of a start that Ray's end interrupts."""
        self._node = None
        logging.getLogger("ray._private.services").disabled = True

    def _run(self, node: Node) -> None:
        try:
            lower_priority(_NICENESS)  # on Linux of this thread, and so of the processes that it starts
            node.start_api_server(include_dashboard=True, raise_on_failure=False)
            self._url = node.webui_url
        finally:
            self._tried.set()
        threading.Event().wait()  # on Linux the dashboard is killed when the thread that started it ends


def start_ray(resources: dict[str, float] | None, dashboard: bool) -> Dashboard:
    """Start Ray and connect to it. The dashboard is started later, with the returned object, or not at all.

    There is no autoscaler, which one machine has no use for, and no log monitor: that one copies what replicas print to
    the console, and they log to files. `ray.init` has no arguments for this.
    """
    without = {"include_log_monitor": False, "no_monitor": True}
    lean = partial(parameter.RayParams, **without)  # pyright: ignore[reportArgumentType]
    with replaced(parameter, "RayParams", lean), replaced(Node, "start_api_server", lambda *_, **__: None):
        ray.init(address="local", namespace=SERVE_NAMESPACE, resources=resources)
    return Dashboard(node=ray_worker._global_node if dashboard else None)  # pyright: ignore[reportPrivateUsage]
