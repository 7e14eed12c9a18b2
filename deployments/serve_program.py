"""Ray Serve's `serve run`, on a Ray whose address other processes of the same user find in the state folder."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.scripts import cli

from deployments.gpus import gpu_resources
from deployments.local_ray import Dashboard, start_ray
from deployments.startup_report import report_start
from roadwork_serve.errors import RoadworkError
from roadwork_serve.ports import check_port
from roadwork_serve.ray_environment import named_cluster
from roadwork_serve.running_server import RunningServer, publishing
from roadwork_serve.state_folder import state_folder
from roadwork_serve.terminal import echo, echo_error

OPEN, NO_DASHBOARD = "--open", "--no-dashboard"


def main() -> None:
    """Run a configuration until a signal. Exit with code 2 if the state folder or the port is in use."""
    config, open_console = sys.argv[1], OPEN in sys.argv[2:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job that a script started with & inherits it ignored
    host, port = _address(yaml.safe_load(Path(config).read_text(encoding="utf-8")))
    try:
        with publishing(state_folder()) as publish:
            cluster = named_cluster()
            if cluster is None:  # the nodes of a cluster have ports of their own
                check_port(host, port)
                dashboard = start_ray(gpu_resources(), NO_DASHBOARD not in sys.argv[2:])
            else:  # it has its own resources and dashboard
                dashboard = Dashboard(ray.init(address=cluster, namespace=SERVE_NAMESPACE).dashboard_url)
            address = ray.get_runtime_context().gcs_address
            url = f"http://{_reachable(host)}:{port}"
            publish(RunningServer(address, url))
            if os.environ.get("RAY_AUTH_MODE") == "token" and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
                echo(f"Ray's dashboard and the command `serve` ask for the token in {path}", err=True)
            report_start(url, dashboard, open_console)
            try:
                cli(["run", "--address", address, config], prog_name="serve")
            finally:
                dashboard.stop()
    except RoadworkError as error:
        echo_error(f"{error.title}: {error}")
        raise SystemExit(2) from None


def _address(config: Any) -> tuple[str, int]:
    """Return the host and port of a Ray Serve configuration, or Serve's own defaults."""
    options: dict[str, Any] = config.get("http_options") or {}
    return str(options.get("host", "127.0.0.1")), int(options.get("port", 8000))


def _reachable(host: str) -> str:
    """Return the host of a URL that reaches a server from its own machine."""
    if host in ("0.0.0.0", "::", "localhost"):  # noqa: S104 - compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()
