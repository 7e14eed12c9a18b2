"""The HTTP server of the miner: uvicorn with a time limit for headers and a limit on connections per address."""

import asyncio
from collections import Counter
from typing import Any, ClassVar

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 512
_MAX_PER_ADDRESS = 64


class DeadlineH11Protocol(H11Protocol):
    """Closes a connection whose headers do not arrive in time, and every connection after its response.

    Limits the number of connections from one address.
    """

    _open: ClassVar[Counter[str]] = Counter()  # connections by address

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._header_timer: asyncio.TimerHandle | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close the connection if its address has too many; else start the timer for the headers."""
        super().connection_made(transport)
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self._open[self._address] += 1
        if self._open[self._address] > _MAX_PER_ADDRESS:
            transport.abort()
            return
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Stop the timer once the headers are complete."""
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
        self._open[self._address] -= 1
        if not self._open[self._address]:
            del self._open[self._address]
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
