"""Environment variables for Ray, used by everything that starts it, tests included."""

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a single node, on the loopback address
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(256 * 2**20),  # fits small machines
    "RAY_AUTH_MODE": "disabled",  # no token is written to the user's home; the dashboard listens on loopback only
    "RAY_process_group_cleanup_enabled": "1",  # processes that a replica started, such as vLLM's engine, end with it
    "RAY_worker_niceness": "0",  # by default replicas have a lower priority than other processes
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced after three periods; default 30 s
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy_middleware.middlewares",
}
