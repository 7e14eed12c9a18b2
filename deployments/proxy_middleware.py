"""Middleware of Ray Serve's HTTP servers; RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names this module."""

import os

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

# The proxy decodes these as UTF-8, and answers any other bytes with a bare 500.
_DECODED = frozenset((b"x_request_id", b"x_request_timeout_seconds", b"x_session_id", b"serve_multiplexed_model_id"))
# The proxy would go on working for a client that has hung up.
_DROPPED = frozenset((b"x_request_disconnect_disabled",))
_SCHEMES = ("http://", "https://")


def middlewares() -> list[Middleware]:
    """Choose the parser of requests and return the middleware.

    Ray Serve calls this just before it starts an HTTP server: in each proxy and, behind HAProxy, in each replica. It
    leaves the choice of the parser to uvicorn, which takes httptools if it is installed, as ray[serve] makes sure.
    httptools gives up a request at an offer of HTTP/2 (`Upgrade: h2c`) and loses its body; h11 ignores the offer, and
    takes longer. HAProxy removes it, see ops/haproxy/haproxy.sh.
    """
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        HTTP_PROTOCOLS["auto"] = HTTP_PROTOCOLS["h11"]
    return [Middleware(CleanRequests)]


class CleanRequests:
    """Makes the headers that the proxy reads itself readable, and a whole URL as target the path that it names.

    The routes check the headers further.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with clean headers."""
        if scope["type"] == "http":
            if scope["path"].startswith(_SCHEMES):  # RFC 9112, 3.2.2; h11 leaves the target as it came
                scope["path"] = _path(scope["path"])
                scope["raw_path"] = _path(scope["raw_path"].decode("latin-1")).encode("latin-1")
            scope["headers"] = [
                (name, _ascii(value) if _normal(name) in _DECODED else value)
                for name, value in scope["headers"]
                if _normal(name) not in _DROPPED
            ]
        await self._app(scope, receive, send)


def _path(url: str) -> str:
    """Return the path of a URL, which is `/` if there is none."""
    return f"/{url.partition('://')[2].partition('/')[2]}"


def _normal(name: bytes) -> bytes:
    return name.lower().replace(b"-", b"_")


def _ascii(value: bytes) -> bytes:
    """Return a value with a question mark for each byte that is not printable ASCII."""
    return (
        value
        if value.isascii() and value.decode("ascii").isprintable()
        else bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in value)
    )
