"""Files to verdicts, by a server or in this process."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
from pydantic import ValidationError

from roadwork_serve import media
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cli.policy import authorisation
from roadwork_serve.errors import BadRequest, RoadworkError
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import BatchEntry, BatchResult, Problem, Verdict

Ask = Callable[[bytes], Awaitable[Verdict | Problem]]

AT_ONCE = 8
_PATIENCE_S = 120.0  # for a server's answer where no deadline was given


async def classify(
    paths: Sequence[Path],
    asking: AbstractAsyncContextManager[Ask],
    on_start: Callable[[], None] = lambda: None,
    on_done: Callable[[], None] = lambda: None,
) -> BatchResult:
    """Every file's verdict or problem, in the order of the paths.

    asking: `from_server(...)` or `in_process(...)`. on_start: called once it can be asked; on_done: after every file.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(path: Path, ask: Ask) -> BatchEntry:
        async with gate:
            try:
                answer = await ask(await asyncio.to_thread(path.read_bytes))
            except OSError as error:
                answer = _problem_of(BadRequest(f"the file cannot be read: {error.strerror or error}"))
            except RoadworkError as error:
                answer = _problem_of(error)
        on_done()
        if isinstance(answer, Verdict):
            return BatchEntry(filename=str(path), verdict=answer)
        return BatchEntry(filename=str(path), problem=answer)

    async with asking as ask:
        on_start()
        return BatchResult(results=await asyncio.gather(*(one(path, ask) for path in paths)))


@asynccontextmanager
async def from_server(
    url: str, deadline_ms: int | None = None, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Ask]:
    """Ask a running server, with the key in ROADWORK_API_KEY if there is one.

    What it cannot be reached for, or says that is no verdict, becomes a problem.

    Raises BadRequest when the URL is none.
    """
    params = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
    patience_s = _PATIENCE_S if deadline_ms is None else deadline_ms / 1000 + 30
    base = url if "://" in url else f"http://{url}"
    try:
        client = httpx.AsyncClient(base_url=base, timeout=patience_s, transport=transport, headers=authorisation())
    except httpx.InvalidURL as error:
        raise BadRequest(f"{url!r} is no URL ({error}); give one such as http://127.0.0.1:8000") from None
    async with client:

        async def ask(data: bytes) -> Verdict | Problem:
            try:
                answer = await client.post(
                    "/v1/classify", content=data, params=params, headers={"Content-Type": "application/octet-stream"}
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                told = f"{base}: {str(error) or type(error).__name__}; is `roadwork serve` running there?"
                return _problem("unreachable", "The server cannot be reached", 503, told)
            try:
                return (Verdict if answer.is_success else Problem).model_validate_json(answer.content)
            except ValidationError:
                told = f"{base} answered {answer.status_code} with {answer.text[:80]!r}; is it a roadwork server?"
                return _problem("not-roadwork", "The server does not speak this protocol", 502, told)

        yield ask


@asynccontextmanager
async def in_process(profile: Profile, policy: Policy, deadline_ms: int | None = None) -> AsyncIterator[Ask]:
    """Ask the cascade of a profile, opened in this process."""
    allowed_s = (deadline_ms or profile.ingress.default_deadline_ms) / 1000
    async with local_cascade(profile, policy) as cascade:

        async def ask(data: bytes) -> Verdict:
            deadline_s = time.monotonic() + allowed_s
            read = await asyncio.to_thread(media.read, data, profile.media)
            return await cascade.router.judge(Item.of(read, uuid.uuid4().hex, deadline_s))

        yield ask


def _problem_of(error: RoadworkError) -> Problem:
    return _problem(error.slug, error.title, error.status, str(error))


def _problem(slug: str, title: str, status: int, detail: str) -> Problem:
    return Problem(type=f"urn:roadwork:problem:{slug}", title=title, status=status, detail=detail)
