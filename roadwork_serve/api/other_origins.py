"""Web pages of other origins that may use the server (CORS)."""

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_READABLE = ("X-Request-Id", "Retry-After")  # response headers, besides those that every page may read
_MAX_AGE_S = 600


class OtherOrigins:
    """Middleware that lets the pages of some origins send requests and read the responses.

    Requests of other origins pass unchanged: without the headers of CORS a browser keeps the response from the page.

    Args:
        app: The application.
        origins: The origins, such as `https://app.example`.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)
        self._allowed = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["DELETE", "GET", "HEAD", "POST", "PUT"],
            allow_headers=["*"],
            expose_headers=_READABLE,
            max_age=_MAX_AGE_S,
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers of CORS to the response for an origin of the list."""
        named = scope["type"] == "http" and origin_of(scope) in self._origins
        await (self._allowed if named else self._app)(scope, receive, send)


def origin_of(scope: Scope) -> bytes | None:
    """Return the Origin of a request, if it has exactly one."""
    found = [value for name, value in scope["headers"] if name == b"origin"]
    return found[0] if len(found) == 1 else None
