"""The requests of one call: how often it is tried, and what its last response means. No I/O."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError

from roadwork_serve.client.calls import Call
from roadwork_serve.client.settings import ClientSettings
from roadwork_serve.errors import (
    NotARoadworkServer,
    NotReady,
    Overloaded,
    RateLimited,
    RoadworkError,
    ServerUnreachable,
)
from roadwork_serve.schema import Problem

T = TypeVar("T")

_TOO_BUSY = (429, 503)
_REJECTED = frozenset((Overloaded.slug, NotReady.slug, RateLimited.slug))  # before any work was done
_PROBLEM = "urn:roadwork:problem:"


class Attempts(Generic[T]):
    """The requests of one call and the verdict on each response. It does no I/O: the clients do."""

    def __init__(self, call: Call[T], base: ClientSettings) -> None:
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
