#!/bin/sh
# HAProxy as Ray Serve starts it, -db -f FILE ..., with two things mended in the file, which Serve 2.60 writes anew
# before each start and has no settings for:
# - its metrics and its statistics listen on the loopback address, not on all;
# - requests are not spliced: HAProxy 2.8 then does not see that a client has hung up, and the work is done for nobody.
# It ends with the process that started it: one that Ray kills leaves it running.
# ROADWORK_HAPROXY: the HAProxy to run.
set -eu
ports="${RAY_SERVE_HAPROXY_METRICS_PORT:-9101}|${RAY_SERVE_HAPROXY_STATS_PORT:-8404}"
sed -E -i -e "s/^( *bind )[*]?:($ports)\$/\1127.0.0.1:\2/" -e '/^ *option splice-request$/d' "$3"
if command -v setpriv > /dev/null; then
  exec setpriv --pdeathsig TERM "$ROADWORK_HAPROXY" "$@"
fi
exec "$ROADWORK_HAPROXY" "$@"
