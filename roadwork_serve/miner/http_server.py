"""The HTTP server of the miner: uvicorn with a time limit for headers and a limit on connections per network."""

import asyncio
from collections import Counter
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
_MESSAGE = (
    f'{{"message": "this address has {_MAX_PER_NETWORK} connections, the limit; close some, or try again in '
    f'{HEADER_TIMEOUT_S:g} s"}}'
)
_REFUSAL = (
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nConnection: close\r\n"
    f"Retry-After: {HEADER_TIMEOUT_S:.0f}\r\nContent-Length: {len(_MESSAGE)}\r\n\r\n{_MESSAGE}"
).encode("ascii")


class DeadlineH11Protocol(H11Protocol):
    """Closes a connection whose headers do not arrive in time, and every connection after its response.

    Limits the number of connections from one IPv4 address or IPv6 network (/64), and tells further ones so.
    """

    _open: ClassVar[Counter[str]] = Counter()  # connections by network
    _refused_count: ClassVar[int] = 0

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._header_timer: asyncio.TimerHandle | None = None
        self._network = ""
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if its network has too many; else start the timer for the headers."""
        super().connection_made(transport)
        self._network = client_network(str((transport.get_extra_info("peername") or ("",))[0]))
        if self._open[self._network] >= _MAX_PER_NETWORK:
            self._refuse(transport)
            return
        self._open[self._network] += 1
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, transport.abort)

    def _refuse(self, transport: asyncio.Transport) -> None:
        """Send the refusal, and discard what arrives while it is read: closing at once would cut it off."""
        self._refused = True
        self.connections.discard(self)  # it takes no place of those that may ask
        DeadlineH11Protocol._refused_count += 1
        if self._refused_count > _MAX_REFUSED:
            transport.abort()
            return
        transport.write(_REFUSAL)
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
            self._open[self._network] -= 1
            if not self._open[self._network]:
                del self._open[self._network]
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
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=round(stop_s),
            h11_max_incomplete_event_size=32 * 1024,
        )
    )
