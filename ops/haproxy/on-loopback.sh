#!/bin/sh
# HAProxy as Ray Serve starts it, -db -f FILE ..., but with its metrics and its statistics on the loopback address: Serve
# 2.60 writes `bind :PORT` and `bind *:PORT` for them and has no setting for it. The file is Serve's own, written anew
# before each start. ROADWORK_HAPROXY: the HAProxy to run.
set -eu
ports="${RAY_SERVE_HAPROXY_METRICS_PORT:-9101}|${RAY_SERVE_HAPROXY_STATS_PORT:-8404}"
sed -E -i "s/^( *bind )[*]?:($ports)\$/\1127.0.0.1:\2/" "$3"
exec "$ROADWORK_HAPROXY" "$@"
