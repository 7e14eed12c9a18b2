"""Protection of a server without keys from web pages of other origins.

A browser that runs on the server's machine sends what any page asks it to: a form or a simple `fetch` to 127.0.0.1, or,
once the page has pointed its own host name there (DNS rebinding), any request whose response it can then read. A server
with keys needs none of this, because no such request carries a key.
"""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from roadwork_serve.api.other_origins import origin_of
from roadwork_serve.api.problem_details import echo, response_of
from roadwork_serve.errors import Forbidden

_OPEN = ("/", "/docs", "/healthz", "/readyz")  # they show and change nothing, and links may lead to them
_OPEN_FOLDER = "/console/"
_OWN_SITES = (b"same-origin", b"none")  # none: the person typed the address
_PORTS = {"http": 80, "https": 443}


class OwnOrigin:
    """Middleware that refuses requests of other origins and under other host names, before their body is read.

    Args:
        app: The application.
        hosts: Host names of this server, besides IP addresses and localhost.
        origins: Other origins whose pages may use this server; see other_origins.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a foreign request, or pass it on."""
        if scope["type"] == "http" and not _open(scope) and (reason := self._foreign(scope)):
            error = Forbidden(
                f"{reason}; a server without keys answers only its own pages, at its address such as 127.0.0.1 or "
                "localhost; use that, add the host name to ingress.allowed_hosts or the page's origin to "
                "ingress.origins of the profile, or start the server with keys"
            )
            return await response_of(error, scope["state"]["request_id"])(scope, receive, send)
        await self._app(scope, receive, send)

    def _foreign(self, scope: Scope) -> str | None:
        """Return why a request is foreign, or None. Programs send neither Origin nor Sec-Fetch-Site."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        own: tuple[str, int | None] | None = None
        for _, value in _of(headers, b"host"):
            own = _host_and_port(value)
            if own is None or not (_is_address(own[0]) or own[0] in self._hosts):
                return f"the Host of the request is {_shown(value)}"
        if origin_of(scope) in self._origins:  # under a Host of this server all the same
            return None
        for _, value in _of(headers, b"origin"):
            if own is None or not _same(value, own):
                return f"the Origin of the request is {_shown(value)}"
        for _, value in _of(headers, b"sec-fetch-site"):
            if value not in _OWN_SITES:
                return f"Sec-Fetch-Site of the request is {_shown(value)}"
        return None


def _open(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return scope["method"] in ("GET", "HEAD") and (path in _OPEN or path.startswith(_OPEN_FOLDER))


def _of(headers: list[tuple[bytes, bytes]], name: bytes) -> list[tuple[bytes, bytes]]:
    return [each for each in headers if each[0] == name]


def _shown(value: bytes) -> str:
    return echo(value.decode("latin-1"))


def _same(origin: bytes, own: tuple[str, int | None]) -> bool:
    """Return whether an origin is that of a page which came from the host and port of the request."""
    scheme, separator, rest = origin.decode("latin-1").partition("://")
    found = _host_and_port(rest.encode("latin-1"))
    if not separator or found is None or scheme not in _PORTS:
        return False
    (host, port), (own_host, own_port) = found, own
    default = _PORTS[scheme]
    return host == own_host and (port or default) == (own_port or default)


def _host_and_port(value: bytes) -> tuple[str, int | None] | None:
    """Return the lower-case host and the port of `host[:port]`, or None if it is something else."""
    text = value.decode("latin-1").lower()
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    plain = parts.netloc == text and "@" not in text and not parts.path
    return (host, port) if plain and host else None


def _is_address(host: str) -> bool:
    """Return whether a host is an IP address or localhost, which no other server's name can be."""
    if host == "localhost":
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
