"""The cascade over HTTP, for a miner that does not join the Ray cluster."""

import httpx

from roadwork_serve.client import AsyncClient
from roadwork_serve.schema import Verdict

_GRACE_S = 1.0  # a validator does not wait longer than its deadline


class HttpCascade:
    """The server at a URL, behind the interface that the miner needs of a cascade.

    Args:
        url: Address of the server.
        key: API key, if the server asks for one; by default the one in ROADWORK_API_KEY.
        transport: An httpx transport, for tests.
    """

    def __init__(self, url: str, key: str | None = None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = AsyncClient(url, key, grace_s=_GRACE_S, transport=transport)

    async def ready(self) -> None:
        """Return when the server accepts requests. Raises NotReady, or why there is no such response."""
        await self._client.ready()

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        """Classify an encoded picture; see `forward.Cascade`."""
        return await self._client.classify(data, deadline_ms=deadline_ms, request_id=request_id, request_key=key)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
