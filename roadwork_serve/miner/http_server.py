"""How the miner listens: uvicorn, and a time within which a caller must have told its headers."""

import asyncio
from collections import Counter
from typing import Any, ClassVar

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 5.0
_MOST_CONNECTIONS = 512
_MOST_OF_AN_ADDRESS = 64


class DeadlineH11Protocol(H11Protocol):
    """Hangs up on who has not told a whole head in time, and after an answer: a connection is for one call.

    An address has only so many connections at once.
    """

    _open: ClassVar[Counter[str]] = Counter()  # connections by address

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._late: asyncio.TimerHandle | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self._open[self._address] += 1
        if self._open[self._address] > _MOST_OF_AN_ADDRESS:
            transport.abort()
            return
        self._late = self.loop.call_later(HEAD_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._late and self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self._late.cancel()
            self._late = None

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.transport.close()  # what is written yet goes out first

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late:
            self._late.cancel()
        self._open[self._address] -= 1
        if not self._open[self._address]:
            del self._open[self._address]
        super().connection_lost(exc)


def server(app: Starlette, host: str, port: int, stop_s: float = 10.0) -> uvicorn.Server:
    """A server that is to be run in the loop that is there. stop_s: for calls in work when it is told to stop."""
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
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=round(stop_s),
            h11_max_incomplete_event_size=32 * 1024,
        )
    )
