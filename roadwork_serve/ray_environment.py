"""Environment variables for Ray, used by everything that starts it or connects to it, tests included."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.state_folder import make_private, secret_file, state_folder

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a single node, on the loopback address
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(256 * 2**20),  # fits small machines
    "RAY_process_group_cleanup_enabled": "1",  # processes that a replica started, such as vLLM's engine, end with it
    "RAY_worker_niceness": "0",  # by default replicas have a lower priority than other processes
    "RAY_raylet_start_wait_time_s": "120",  # on a busy machine; default 30 s
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced after three periods; default 30 s
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy_middleware.middlewares",
    # What a server without requests does is mostly Ray's own timers; benchmarks/rest.py measures it. Nothing here waits
    # for them but a replica's start, stop and new user_config, by up to half a second.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # default 0.1
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",  # default 100
    "RAY_raylet_report_resources_period_milliseconds": "1000",  # default 100
    "RAY_raylet_check_gc_period_milliseconds": "1000",  # default 100
    "RAY_object_manager_timer_freq_ms": "1000",  # default 100
    "RAY_kill_idle_workers_interval_ms": "2000",  # default 200
    "RAY_task_events_report_interval_ms": "0",  # no events: the dashboard lists no tasks, which Serve hardly has
    "REPORTER_UPDATE_INTERVAL_MS": "10000",  # of the dashboard's machine statistics; default 5000
    "LOG_NAME_UPDATE_INTERVAL_S": "5",  # a cluster's log monitor looks for new files; default 0.5
    # glibc keeps what a process has freed: with its defaults a server of small models has 200 to 300 MB more. Bytes.
    "MALLOC_ARENA_MAX": "1",  # default 8 for each core; a process of Ray has dozens of threads that hardly allocate
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),  # larger blocks go back at once; default up to 32 MiB
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),  # of the heap's end; default up to 64 MiB
}

_OWN = {  # of a Ray that `roadwork serve` starts
    "RAY_enable_worker_prestart": "1",  # workers start before they are asked for, and the server a second earlier
    # The dashboard starts in what the server leaves of the cores: seconds; defaults 60 and 30.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
}


def ray_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables for a Ray of this user: its settings, a token for its calls, and a private folder.

    The token and the folder are made if they are missing. A cluster that the user names in RAY_ADDRESS has its own.

    Raises:
        ConfigError: The token or the folder cannot be made, or belongs to another user.
    """
    if named_cluster(environment) is not None:
        return dict(RAY)
    private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(state_folder(environment)))}
    if "RAY_TMPDIR" not in environment:
        private["RAY_TMPDIR"] = str(_temporary_folder())
    return RAY | _OWN | private


def named_cluster(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the address in RAY_ADDRESS, or None if the user names no cluster there."""
    address = environment.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def token_file(state: Path) -> Path:
    """Return the file with the token of this user's Ray, which is made at the first call."""
    return secret_file(state / "ray" / "token")


def _temporary_folder() -> Path:
    """Return the folder for Ray's sessions. Ray itself would use /tmp/ray, where every user may replace its sockets.

    It is not in the state folder, because the paths of sockets must be short.
    """
    base = "/tmp" if sys.platform == "darwin" else tempfile.gettempdir()  # noqa: S108 - macOS has a long path of its own
    folder = Path(base) / f"roadwork-{os.getuid()}"
    try:
        if folder.is_symlink():
            raise ConfigError(f"{folder} is a link")
        return make_private(folder)
    except ConfigError as error:
        raise ConfigError(f"Ray needs a private folder: {error}; name one, with a short path, in RAY_TMPDIR") from None
