"""The HTTP server of the miner: uvicorn with a time limit for headers and a share of the connections per network."""

import asyncio
from typing import Any, ClassVar

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from roadwork_serve.client_network import client_network

HEADER_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 512
_MAX_PER_NETWORK = 64
_MAX_REFUSED = 512  # connections that are being told why; further ones are cut
_REFUSED_S = 1.0  # time to read the refusal


def _refusal(status: str, reason: str) -> bytes:
    message = f'{{"message": "{reason} try again in {HEADER_TIMEOUT_S:g} s"}}'
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Retry-After: {HEADER_TIMEOUT_S:.0f}\r\nContent-Length: {len(message)}\r\n\r\n{message}"
    ).encode("ascii")


_TOO_MANY = _refusal(
    "429 Too Many Requests", f"this address has {_MAX_PER_NETWORK} connections, the limit; close some, or"
)
_FULL = _refusal("503 Service Unavailable", f"all {_MAX_CONNECTIONS} connections are taken;")


class DeadlineH11Protocol(H11Protocol):
    """Closes a connection whose headers do not arrive in time, and every connection after its response.

    Limits the number of connections from one IPv4 address or IPv6 network (/64) and in all, and tells further ones so.
    Where all are taken, the network with most of them gives one up to a network with fewer.
    """

    #: Connections by network, the oldest first.
    _open: ClassVar[dict[str, dict["DeadlineH11Protocol", None]]] = {}
    _refused_count: ClassVar[int] = 0

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._header_timer: asyncio.TimerHandle | None = None
        self._network = ""
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there is no place for it; else start the timer for the headers."""
        super().connection_made(transport)
        self._network = client_network(str((transport.get_extra_info("peername") or ("",))[0]))
        if len(self._open.get(self._network, ())) >= _MAX_PER_NETWORK:
            self._refuse(transport, _TOO_MANY)
        elif sum(map(len, self._open.values())) >= _MAX_CONNECTIONS and not self._make_room():
            self._refuse(transport, _FULL)
        else:
            self._open.setdefault(self._network, {})[self] = None
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, transport.abort)

    def _make_room(self) -> bool:
        """Cut the oldest connection without a request, of the network with most. Return False if none has more."""
        own = len(self._open.get(self._network, ()))
        for connections in sorted(self._open.values(), key=len, reverse=True):
            if len(connections) <= own:
                break
            for each in connections:
                if each._header_timer:
                    each._leave()
                    each.transport.abort()
                    return True
        return False

    def _leave(self) -> None:
        """Give up the place of this connection."""
        if connections := self._open.get(self._network):
            connections.pop(self, None)
            if not connections:
                del self._open[self._network]

    def _refuse(self, transport: asyncio.Transport, refusal: bytes) -> None:
        """Send the refusal, and discard what arrives while it is read: closing at once would cut it off."""
        self._refused = True
        self.connections.discard(self)  # it takes no place of those that may ask
        DeadlineH11Protocol._refused_count += 1
        if self._refused_count > _MAX_REFUSED:
            transport.abort()
            return
        transport.write(refusal)
        transport.write_eof()
        self._header_timer = self.loop.call_later(_REFUSED_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Stop the timer once the headers are complete."""
        if self._refused:
            return
        super().data_received(data)
        if self._header_timer and self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self._header_timer.cancel()
            self._header_timer = None

    def on_response_complete(self) -> None:
        """Close the connection after one response."""
        self.server_state.total_requests += 1
        self.transport.close()  # after the pending output has been sent

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer and forget the connection."""
        if self._header_timer:
            self._header_timer.cancel()
        if self._refused:
            DeadlineH11Protocol._refused_count -= 1
        else:
            self._leave()
        super().connection_lost(exc)


def server(app: Starlette, host: str, port: int, stop_s: float = 10.0) -> uvicorn.Server:
    """Return a server that runs in the current event loop.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on.
        stop_s: Time for calls in flight when it is stopped, in seconds.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=DeadlineH11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=_MAX_CONNECTIONS + 1,  # it rejects the call that reaches the number
            timeout_graceful_shutdown=round(stop_s),
            h11_max_incomplete_event_size=32 * 1024,
        )
    )
