"""What Ray must find in its environment: whoever starts it, the tests too, has it from here."""

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node of its own on the loopback address
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(256 * 2**20),  # fits small machines
    "RAY_AUTH_MODE": "disabled",  # no token is written to the user's home; the dashboard listens on loopback only
    "RAY_process_group_cleanup_enabled": "1",  # what a replica started ends with it: vLLM's engine
    "RAY_worker_niceness": "0",  # by default replicas give way to whatever else runs on the machine
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced after three of them, 30 s by default
}
