#!/bin/sh
# HAProxy as Ray Serve starts it, -db -f FILE ..., with these things mended in the file, which Serve 2.60 writes anew
# before each start and has no settings for:
# - its metrics and its statistics listen on the loopback address, not on all;
# - requests are not spliced: HAProxy 2.8 then does not see that a client has hung up, and the work is done for nobody;
# - more headers than the server accepts reach it, and get its own error;
# - headers that do not arrive within ten seconds end their connection, which one of 4096 would hold otherwise;
# - the address of the client is passed on in X-Forwarded-For;
# - an offer of another protocol, such as HTTP/2, is removed: the parser behind it would lose the body; HTTP/2 without an
#   offer is refused, as by Serve's own proxy.
# It ends with the process that started it: one that Ray kills leaves it running.
# ROADWORK_HAPROXY: the HAProxy to run.
set -eu
ports="${RAY_SERVE_HAPROXY_METRICS_PORT:-9101}|${RAY_SERVE_HAPROXY_STATS_PORT:-8404}"
sed -E -i -e "s/^( *bind )[*]?:($ports)\$/\1127.0.0.1:\2/" -e '/^ *option splice-request$/d' \
  -e 's/^global$/&\n    tune.http.maxhdr 2048/' \
  -e 's/^defaults$/&\n    timeout http-request 10s/' \
  -e 's/^frontend http_frontend$/&\n    option forwardfor\n    option disable-h2-upgrade\n    http-request del-header upgrade/' "$3"
if command -v setpriv > /dev/null; then
  exec setpriv --pdeathsig TERM "$ROADWORK_HAPROXY" "$@"
fi
exec "$ROADWORK_HAPROXY" "$@"
