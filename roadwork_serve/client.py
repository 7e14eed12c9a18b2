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

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import (
    BadRequest,
    NotARoadworkServer,
    NotReady,
    Overloaded,
    RateLimited,
    RoadworkError,
    ServerUnreachable,
)
from roadwork_serve.schema import (
    BatchResult,
    Health,
    HumanLabel,
    JournalEntry,
    JournalPage,
    PolicyChange,
    PolicyPreview,
    Problem,
    Readiness,
    ReviewLabel,
    Stats,
    Verdict,
)
from roadwork_serve.server_state import Info, PolicyState

KEY_VARIABLE = "ROADWORK_API_KEY"
LOCAL_SERVER = "http://127.0.0.1:8000"

# The bytes of a photo or clip, or the path of a file with them.
Media = bytes | Path
# A file of a batch: its path, or the name to report it by and its bytes.
BatchFile = Path | tuple[str, bytes]
# A policy, or a rollout with one, as a model or as plain data.
PolicyBody = Policy | Rollout | Mapping[str, Any]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_TOO_BUSY = (429, 503)
_REJECTED = frozenset((Overloaded.slug, NotReady.slug, RateLimited.slug))  # before any work was done
_PROBLEM = "urn:roadwork:problem:"


@dataclass(frozen=True, slots=True)
class Retry:
    """Limits for sending a request again.

    A request is repeated after a response with status 429 or 503 and a Retry-After header, and only where that is safe:
    the server rejected it before doing any work, or repeating it changes nothing.
    """

    #: Requests sent for one call, the first one included; 1 disables retrying.
    max_tries: int = 4
    #: Longest total pause between the requests of one call, seconds.
    max_wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """A call of the API: its request and how to parse the response."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    deadline_ms: int | None = None
    #: When the request may be sent again: if the server rejected it, whatever the server did with it, or never.
    repeat: Literal["if_rejected", "always", "never"] = "if_rejected"


class _Attempts(Generic[T]):
    """The requests of one call and the verdict on each response. It does no I/O: the clients do."""

    def __init__(self, call: _Call[T], base: "_Base") -> None:
        self._call = call
        self._base = base
        self._began = monotonic()
        self._tries = 0
        self._waited_s = 0.0

    def request(self) -> dict[str, Any]:
        """Return the arguments of the next request, for httpx. A deadline counts from the first one."""
        call, base = self._call, self._base
        self._tries += 1
        params, timeout_s = dict(call.params), base.timeout_s
        if call.deadline_ms is not None:
            left_ms = max(1, round(call.deadline_ms - 1000 * (monotonic() - self._began)))
            if self._tries == 1:
                left_ms = call.deadline_ms
            params["deadline_ms"], timeout_s = left_ms, left_ms / 1000 + base.grace_s
        return {
            "method": call.method,
            "url": call.path,
            "params": params,
            "headers": dict(call.headers),
            "content": call.content,
            "files": call.files,
            "timeout": timeout_s,
        }

    def pause_s(self, response: httpx.Response) -> float | None:
        """Return the seconds to wait before the next request, or None when this response is the last."""
        retry, call = self._base.retry, self._call
        if response.status_code not in _TOO_BUSY or call.repeat == "never" or self._tries >= retry.max_tries:
            return None
        pause_s = _retry_after_s(response)
        if pause_s is None or self._waited_s + pause_s > retry.max_wait_s:
            return None
        if call.deadline_ms is not None and monotonic() - self._began + pause_s >= call.deadline_ms / 1000:
            return None
        if call.repeat == "if_rejected":
            problem = _problem(response)
            if problem is None or problem.type.removeprefix(_PROBLEM) not in _REJECTED:
                return None
        self._waited_s += pause_s
        return pause_s

    def result(self, response: httpx.Response) -> T:
        """Return the parsed response, or raise the error that came instead."""
        if not response.is_success:
            problem = _problem(response)
            raise self._stranger(response) if problem is None else _error_of(problem, response)
        try:
            return self._call.parse(response)
        except ValidationError:
            raise self._stranger(response) from None

    def unreachable(self, error: Exception) -> ServerUnreachable:
        """Return the error for a request that got no response."""
        reason = str(error) or type(error).__name__
        return ServerUnreachable(f"no response from {self._base.url}: {reason}; is `roadwork serve` running there?")

    def _stranger(self, response: httpx.Response) -> NotARoadworkServer:
        start = response.content[:80].decode("utf-8", "replace")
        return NotARoadworkServer(
            f"{self._base.url} answered {response.status_code} with {start!r}; is it a roadwork server?"
        )


class _Base:
    """Settings that both clients share."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, grace_s: float, retry: Retry) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self.retry = retry
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        if key and not (key.isascii() and key.isprintable()):
            raise BadRequest(f"the API key has characters that no key has; check {KEY_VARIABLE}")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the httpx client. Raises BadRequest when the URL is invalid."""
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise BadRequest(f"{self.url!r} is no URL ({error}); give one such as {LOCAL_SERVER}") from None
        return {"base_url": self.url, "headers": self._headers, "follow_redirects": False}


class Client(_Base):
    """A synchronous client. Close it, or use it as a context manager; threads may share one.

    Args:
        url: Address of the server; `http://` is assumed where no scheme is given.
        api_key: API key; by default the one in the environment variable ROADWORK_API_KEY, if there is one.
        timeout_s: Seconds of silence after which a call without a deadline fails.
        grace_s: Seconds that a response may be late when the call has a deadline.
        retry: When a rejected request is sent again.
        transport: An httpx transport, for tests or special networks.

    Raises:
        BadRequest: When the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str = LOCAL_SERVER,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        grace_s: float = 5.0,
        retry: Retry = Retry(),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, grace_s, retry)
        self._http = httpx.Client(transport=transport, **self._settings())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(
        self,
        media: Media,
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Classify a photo or clip.

        Args:
            media: The encoded file, or its path. The server detects the format from the bytes.
            deadline_ms: Milliseconds until the verdict is needed, retries included; the server's default if None.
            request_key: What an A/B test keeps on one side, such as the name of a camera.
            request_id: Name of this request in the server's logs and journal; the server makes one up if None.

        Example:
            >>> with Client() as client:  # doctest: +SKIP
            ...     client.classify(Path("photo.jpg"), deadline_ms=2000).label
            'roadwork'
        """
        return self._send(_classify(_read(media), deadline_ms, request_key, request_id))

    def classify_batch(
        self,
        files: Iterable[BatchFile],
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
    ) -> BatchResult:
        """Classify several files in one request. Each gets a verdict or a problem of its own, in the order given.

        Args:
            files: Paths, or pairs of a name and the bytes. `info().limits` has the most that a batch may hold.
            deadline_ms: Milliseconds until the verdicts are needed, retries included.
            request_key: See `classify`; it holds for every file.
            request_id: See `classify`; the server adds the number of each file to it.
        """
        return self._send(_classify_batch(_read_all(files), deadline_ms, request_key, request_id))

    def health(self) -> Health:
        """Return normally if the server process is alive; it may still be loading models."""
        return self._send(_HEALTH)

    def ready(self) -> Readiness:
        """Return the stages that are up and down. Raises NotReady while the server accepts no requests."""
        return self._send(_READY)

    def info(self) -> Info:
        """Return the version, models, active policy and limits of the server."""
        return self._send(_INFO)

    def stats(self) -> Stats:
        """Return the load and the request statistics of every ingress replica."""
        return self._send(_STATS)

    def policy(self) -> PolicyState:
        """Return the active policy and the history of revisions."""
        return self._send(_POLICY)

    def put_policy(self, policy: PolicyBody) -> PolicyChange:
        """Activate a policy, or a rollout with one, on every replica. It needs an admin key.

        Raises:
            PolicyRefused: When the policy is invalid, or the server has no such stage or head.
            PolicyConflict: When the version was used before with other content.
        """
        return self._send(_put_policy(policy))

    def rollback_policy(self) -> PolicyChange:
        """Activate the previous policy again. Raises PolicyConflict when there is none. It needs an admin key."""
        return self._send(_ROLLBACK)

    def preview_policy(self, policy: PolicyBody, *, last: int = 500) -> PolicyPreview:
        """Replay a policy on the latest journal entries, and compare it with the active one.

        Args:
            policy: A policy, or a rollout with one.
            last: Number of journal entries to replay.
        """
        return self._send(_preview_policy(policy, last))

    def journal(
        self, *, limit: int | None = None, sort: Literal["newest", "informativeness"] = "newest"
    ) -> JournalPage:
        """Return journal entries: the newest, or the most informative ones that nobody has labeled yet.

        Example:
            >>> with Client() as client:  # doctest: +SKIP
            ...     for entry in client.journal(sort="informativeness").entries:
            ...         print(entry.id, entry.informativeness, entry.reasons)
        """
        return self._send(_journal(limit, sort))

    def journal_media(self, entry_id: str) -> bytes:
        """Return the encoded photo or clip of a journal entry. Raises NotFound when it is not stored."""
        return self._send(_journal_media(entry_id))

    def label(self, entry_id: str, label: ReviewLabel, *, note: str = "") -> JournalEntry:
        """Label a journal entry. Earlier labels are kept; the last one counts."""
        return self._send(_label(entry_id, label, note))

    def _send(self, call: _Call[T]) -> T:
        attempts = _Attempts(call, self)
        while True:
            try:
                response = self._http.request(**attempts.request())
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise attempts.unreachable(error) from None
            if (pause_s := attempts.pause_s(response)) is None:
                return attempts.result(response)
            time.sleep(pause_s)


class AsyncClient(_Base):
    """A client for asyncio, with the arguments and methods of `Client`. Close it, or use it with `async with`."""

    def __init__(
        self,
        url: str = LOCAL_SERVER,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        grace_s: float = 5.0,
        retry: Retry = Retry(),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, grace_s, retry)
        self._http = httpx.AsyncClient(transport=transport, **self._settings())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def classify(
        self,
        media: Media,
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Classify a photo or clip; see `Client.classify`."""
        return await self._send(_classify(await asyncio.to_thread(_read, media), deadline_ms, request_key, request_id))

    async def classify_batch(
        self,
        files: Iterable[BatchFile],
        *,
        deadline_ms: int | None = None,
        request_key: str | None = None,
        request_id: str | None = None,
    ) -> BatchResult:
        """Classify several files in one request; see `Client.classify_batch`."""
        read = await asyncio.to_thread(_read_all, files)
        return await self._send(_classify_batch(read, deadline_ms, request_key, request_id))

    async def health(self) -> Health:
        """Return normally if the server process is alive."""
        return await self._send(_HEALTH)

    async def ready(self) -> Readiness:
        """Return the stages that are up and down. Raises NotReady while the server accepts no requests."""
        return await self._send(_READY)

    async def info(self) -> Info:
        """Return the version, models, active policy and limits of the server."""
        return await self._send(_INFO)

    async def stats(self) -> Stats:
        """Return the load and the request statistics of every ingress replica."""
        return await self._send(_STATS)

    async def policy(self) -> PolicyState:
        """Return the active policy and the history of revisions."""
        return await self._send(_POLICY)

    async def put_policy(self, policy: PolicyBody) -> PolicyChange:
        """Activate a policy, or a rollout with one, on every replica; see `Client.put_policy`."""
        return await self._send(_put_policy(policy))

    async def rollback_policy(self) -> PolicyChange:
        """Activate the previous policy again; see `Client.rollback_policy`."""
        return await self._send(_ROLLBACK)

    async def preview_policy(self, policy: PolicyBody, *, last: int = 500) -> PolicyPreview:
        """Replay a policy on the latest journal entries; see `Client.preview_policy`."""
        return await self._send(_preview_policy(policy, last))

    async def journal(
        self, *, limit: int | None = None, sort: Literal["newest", "informativeness"] = "newest"
    ) -> JournalPage:
        """Return journal entries; see `Client.journal`."""
        return await self._send(_journal(limit, sort))

    async def journal_media(self, entry_id: str) -> bytes:
        """Return the encoded photo or clip of a journal entry; see `Client.journal_media`."""
        return await self._send(_journal_media(entry_id))

    async def label(self, entry_id: str, label: ReviewLabel, *, note: str = "") -> JournalEntry:
        """Label a journal entry; see `Client.label`."""
        return await self._send(_label(entry_id, label, note))

    async def _send(self, call: _Call[T]) -> T:
        attempts = _Attempts(call, self)
        while True:
            try:
                response = await self._http.request(**attempts.request())
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise attempts.unreachable(error) from None
            if (pause_s := attempts.pause_s(response)) is None:
                return attempts.result(response)
            await asyncio.sleep(pause_s)


def _model(kind: type[M]) -> Callable[[httpx.Response], M]:
    """Return a parser of a wire model. Fields that a newer server has added are ignored."""
    return lambda response: kind.model_validate_json(response.content, extra="ignore")


_HEALTH = _Call("GET", "/healthz", _model(Health), repeat="never")
_READY = _Call("GET", "/readyz", _model(Readiness), repeat="never")
_INFO = _Call("GET", "/v1/info", _model(Info), repeat="always")
_STATS = _Call("GET", "/v1/stats", _model(Stats), repeat="always")
_POLICY = _Call("GET", "/v1/policy", _model(PolicyState), repeat="always")
_ROLLBACK = _Call("POST", "/v1/policy/rollback", _model(PolicyChange))


def _classify(data: bytes, deadline_ms: int | None, request_key: str | None, request_id: str | None) -> _Call[Verdict]:
    headers = {"Content-Type": "application/octet-stream"} | _request_headers(request_key, request_id)
    return _Call("POST", "/v1/classify", _model(Verdict), headers=headers, content=data, deadline_ms=deadline_ms)


def _classify_batch(
    files: list[tuple[str, bytes]], deadline_ms: int | None, request_key: str | None, request_id: str | None
) -> _Call[BatchResult]:
    return _Call(
        "POST",
        "/v1/classify/batch",
        _model(BatchResult),
        headers=_request_headers(request_key, request_id),
        files=[("file", file) for file in files],
        deadline_ms=deadline_ms,
    )


def _put_policy(policy: PolicyBody) -> _Call[PolicyChange]:
    return _Call("PUT", "/v1/policy", _model(PolicyChange), **_json(policy), repeat="always")


def _preview_policy(policy: PolicyBody, last: int) -> _Call[PolicyPreview]:
    return _Call("POST", "/v1/policy/preview", _model(PolicyPreview), {"last": last}, **_json(policy), repeat="always")


def _journal(limit: int | None, sort: str) -> _Call[JournalPage]:
    params = {"sort": sort} | ({} if limit is None else {"limit": limit})
    return _Call("GET", "/v1/journal", _model(JournalPage), params, repeat="always")


def _journal_media(entry_id: str) -> _Call[bytes]:
    path = f"/v1/journal/{quote(entry_id, safe='')}/media"
    return _Call("GET", path, lambda response: response.content, repeat="always")


def _label(entry_id: str, label: ReviewLabel, note: str) -> _Call[JournalEntry]:
    path = f"/v1/journal/{quote(entry_id, safe='')}/label"
    return _Call("PUT", path, _model(JournalEntry), **_json(HumanLabel(label=label, note=note)), repeat="always")


def _request_headers(request_key: str | None, request_id: str | None) -> dict[str, str]:
    named = {"X-Request-Key": request_key, "X-Request-Id": request_id}
    return {name: value for name, value in named.items() if value is not None}


def _json(body: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """Return the content and the headers of a request with a JSON body."""
    plain = body.model_dump(mode="json", exclude_none=True) if isinstance(body, BaseModel) else body
    return {"content": json.dumps(plain).encode(), "headers": {"Content-Type": "application/json"}}


def _read(media: Media) -> bytes:
    """Return the bytes of a file. Raises BadRequest when it cannot be read."""
    if isinstance(media, bytes):
        return media
    try:
        return media.read_bytes()
    except OSError as error:
        raise BadRequest(f"{media} cannot be read: {error.strerror or error}") from None


def _read_all(files: Iterable[BatchFile]) -> list[tuple[str, bytes]]:
    return [(file.name, _read(file)) if isinstance(file, Path) else file for file in files]


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the pause that Retry-After asks for: RFC 9110, 10.2.3, in seconds or as a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _problem(response: httpx.Response) -> Problem | None:
    try:
        return Problem.model_validate_json(response.content, extra="ignore")
    except ValidationError:
        return None


def _error_of(problem: Problem, response: httpx.Response) -> RoadworkError:
    """Return the error that a problem document was made of."""
    slug = problem.type.removeprefix(_PROBLEM)
    for kind in _tree(RoadworkError):
        if kind.slug == slug:
            error = kind(problem.detail)
            break
    else:
        error = RoadworkError(problem.detail)
        error.slug = slug
    error.title, error.status = problem.title, problem.status
    if isinstance(error, Overloaded | RateLimited) and (pause_s := _retry_after_s(response)) is not None:
        error.retry_after_s = pause_s
    return error


def _tree(kind: type[RoadworkError]) -> Iterator[type[RoadworkError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _tree(each)
