"""Middleware of Ray Serve's HTTP proxies, which RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

# The proxy decodes these as UTF-8, and answers any other bytes with a bare 500.
_DECODED = frozenset((b"x_request_id", b"x_request_timeout_seconds", b"x_session_id", b"serve_multiplexed_model_id"))
# The proxy would go on working for a client that has hung up.
_DROPPED = frozenset((b"x_request_disconnect_disabled",))


def middlewares() -> list[Middleware]:
    """Return the middleware. Ray Serve calls this when a proxy starts."""
    return [Middleware(CleanHeaders)]


class CleanHeaders:
    """Makes the headers that the proxy reads itself readable; the routes check them further."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with clean headers."""
        if scope["type"] == "http":
            scope["headers"] = [
                (name, _ascii(value) if _normal(name) in _DECODED else value)
                for name, value in scope["headers"]
                if _normal(name) not in _DROPPED
            ]
        await self._app(scope, receive, send)


def _normal(name: bytes) -> bytes:
    return name.lower().replace(b"-", b"_")


def _ascii(value: bytes) -> bytes:
    """Return a value with a question mark for each byte that is not printable ASCII."""
    return (
        value
        if value.isascii() and value.decode("ascii").isprintable()
        else bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in value)
    )
