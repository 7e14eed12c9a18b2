"""The cascade over HTTP, for a miner that is not to join the Ray cluster."""

from collections.abc import Iterator
from typing import Any

import httpx
from pydantic import ValidationError

from roadwork_serve.errors import RoadworkError, StageFailed
from roadwork_serve.schema import Problem, Verdict


class HttpCascade:
    """url: of a server. key: an API key, where it asks for one."""

    def __init__(self, url: str, key: str | None = None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        authorisation = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(base_url=url, headers=authorisation, transport=transport)

    async def ready(self) -> None:
        """Raises StageFailed where no server answers, and what it says while it is not ready."""
        self._raise_for_problem(await self._sent("GET", "/readyz", timeout=10))

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        """See `answers.Cascade`."""
        headers = {"Content-Type": "application/octet-stream", "X-Request-Id": request_id, "X-Request-Key": key}
        reply = await self._sent(
            "POST", "/v1/classify", params={"deadline_ms": deadline_ms}, content=data, headers=headers,
            timeout=deadline_ms / 1000 + 1,
        )  # fmt: skip
        self._raise_for_problem(reply)
        try:
            return Verdict.model_validate_json(reply.content)
        except ValidationError:
            raise self._stranger(reply) from None

    async def _sent(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return await self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise StageFailed(f"{self._client.base_url} cannot be reached: {error or type(error).__name__}") from None

    def _raise_for_problem(self, reply: httpx.Response) -> None:
        """Raises the error that came in place of a verdict, if one did."""
        if not reply.is_success:
            try:
                raise _error(Problem.model_validate_json(reply.content))
            except ValidationError:
                raise self._stranger(reply) from None

    def _stranger(self, reply: httpx.Response) -> StageFailed:
        return StageFailed(f"{self._client.base_url} does not speak this protocol (HTTP {reply.status_code})")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _error(problem: Problem) -> RoadworkError:
    """The error of the tree that a problem was made of."""
    for kind in _all(RoadworkError):
        if problem.type == f"urn:roadwork:problem:{kind.slug}":
            return kind(problem.detail)
    return StageFailed(problem.detail)


def _all(kind: type[RoadworkError]) -> Iterator[type[RoadworkError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _all(each)
