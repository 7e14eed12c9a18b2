"""Clients for the HTTP API of a running server: `Client` for synchronous code and `AsyncClient` for asyncio.

Classify a photo:

    from pathlib import Path

    from roadwork_serve.client import Client

    with Client("http://127.0.0.1:8000") as client:
        verdict = client.classify(Path("photo.jpg"), deadline_ms=2000)
        print(verdict.label, verdict.probability)

Classify many files concurrently:

    import asyncio

    from roadwork_serve.client import AsyncClient

    async def labels(photos: list[bytes]) -> list[str]:
        async with AsyncClient("http://127.0.0.1:8000") as client:
            verdicts = await asyncio.gather(*(client.classify(photo) for photo in photos))
        return [verdict.label for verdict in verdicts]

Both clients have a method for every route, return the models of `roadwork_serve.schema` and raise the errors of
`roadwork_serve.errors`: the one that the server's problem document names, ServerUnreachable when no response came, and
NotARoadworkServer when the response is no roadwork server's. Requests that the server rejected because it was busy are
sent again after the pause it asked for; see `Retry`. Redirects are not followed, so the key stays with its server.
"""

from roadwork_serve.client.asynchronous import AsyncClient
from roadwork_serve.client.blocking import Client
from roadwork_serve.client.calls import BatchFile, JournalFilter, Media, PolicyBody
from roadwork_serve.client.settings import KEY_VARIABLE, LOCAL_SERVER, Retry

__all__ = [
    "KEY_VARIABLE",
    "LOCAL_SERVER",
    "AsyncClient",
    "BatchFile",
    "Client",
    "JournalFilter",
    "Media",
    "PolicyBody",
    "Retry",
]
