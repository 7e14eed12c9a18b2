"""The routes: what is asked over HTTP and how it is answered."""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, Query, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadwork_serve.api.auth import Authenticator, Caller, HeaderLimits
from roadwork_serve.api.console_routes import console_routes
from roadwork_serve.api.problem_details import documented, install_problem_handlers, problem_of
from roadwork_serve.api.request_body import MANY_FILES, ONE_FILE, Upload, body_may_set_deadline, read_many, read_one
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.errors import (
    BadRequest,
    BrokenMedia,
    DeadlineExceeded,
    MediaTooLarge,
    NotReady,
    Overloaded,
    RoadworkError,
    UnsupportedMedia,
)
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import (
    MAX_DEADLINE_MS,
    BatchEntry,
    BatchResult,
    Health,
    Info,
    Readiness,
    Verdict,
)

_LOG = logging.getLogger("ray.serve.roadwork.http")
_WAY_BACK_S, _PROXYS_S = 0.05, 0.1
_LONGEST_BODY_S = 30.0  # whatever the deadline: a place is held meanwhile
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# What a rendered scene was answered once.
_VERDICT: dict[str, Any] = json.loads(Path(__file__).with_name("verdict_example.json").read_text(encoding="utf-8"))
_ABOUT = """Is there active road work on this photograph or clip, how sure is the server, and what made it think so?

    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/classify
    curl -F file=@clip.mp4 -F deadline_ms=5000 http://127.0.0.1:8000/v1/classify
    curl -F a=@one.jpg -F b=@two.mp4 http://127.0.0.1:8000/v1/classify/batch

Formats are told by the bytes, not by the name: JPEG, PNG, WebP, MP4, WebM, MOV.
Every error is an RFC 9457 problem document. Where the server has keys, send one as `Authorization: Bearer KEY`
or `X-API-Key: KEY`."""

DeadlineMs = Annotated[
    int | None, Query(ge=1, le=MAX_DEADLINE_MS, description="answer within this time, milliseconds", examples=[2000])
]
TimeoutS = Annotated[
    float | None,
    Header(
        alias="x-request-timeout-seconds",
        gt=0,
        le=MAX_DEADLINE_MS / 1000,
        allow_inf_nan=False,
        description="the same in seconds; the proxy cuts the request off when it has passed",
    ),
]

RequestKey = Annotated[
    str | None,
    Header(
        alias="x-request-key",
        max_length=256,
        description="what an A/B test keeps on one side: a camera, a trip; by default each request is on its own",
    ),
]

_CUT_OFF: dict[int | str, dict[str, Any]] = {
    408: {
        "description": "Ray Serve's proxy cut the request off when x-request-timeout-seconds had passed",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


class RequestPermit(Protocol):
    """What a request in work holds."""

    def take(self, size: int) -> None:
        """Hold so many bytes more until the request is done. Raises Overloaded when all requests hold too many."""
        ...


class ClassifyService(Protocol):
    """What the routes need of the ingress."""

    profile: Profile

    def admission(self) -> AbstractContextManager[RequestPermit]:
        """Hold a place for a request. Raises NotReady or Overloaded."""
        ...

    def foresee(self, deadline_s: float) -> None:
        """Before a body is read: raises Overloaded or DeadlineExceeded when it could not be judged in time."""
        ...

    async def judge(self, data: bytes, deadline_s: float, request_id: str, asked: RequestContext) -> Verdict:
        """The verdict on a file by a deadline on the clock of `time.monotonic()`."""
        ...

    def readiness(self) -> Readiness:
        """Which stages are up. Raises NotReady while requests are refused."""
        ...

    def info(self) -> Info:
        """What the server is made of."""
        ...


def http_app(
    service: ClassifyService,
    guard: Authenticator | None = None,
    on_stop: Callable[[], Awaitable[None]] | None = None,
    name_requests: bool = True,
) -> FastAPI:
    """The FastAPI application over a service.

    guard: lets requests in; by default one with the keys of the environment, and ConfigError when they make no sense.
    on_stop: awaited when the application shuts down.
    name_requests: set the X-Request-Id of responses; off behind Ray Serve's proxy, which sets it itself.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        if on_stop is not None:
            await on_stop()

    profile = service.profile
    guard = guard or Authenticator.from_environment(profile.ingress.replicas)
    routes = guard.router("client")
    app = FastAPI(
        title="roadwork-serve",
        description=_ABOUT,
        version="1",
        redoc_url=None,
        redirect_slashes=False,  # it would send bodies to wherever the Host header says
        lifespan=lifespan,
    )
    app.add_middleware(HeaderLimits)
    app.add_middleware(_RequestId, respond=name_requests)
    install_problem_handlers(app)

    @routes.post(
        "/v1/classify",
        summary="Classify one photo or clip",
        responses=documented(
            BadRequest("deadline_ms is '0': Input should be greater than or equal to 1"),
            MediaTooLarge(f"the request is larger than {profile.media.max_bytes:,} bytes of media; send less"),
            UnsupportedMedia("the bytes are no JPEG, PNG, WebP, MP4, WebM or MOV"),
            BrokenMedia("the JPEG ends early; send the whole file"),
            Overloaded("256 items wait for backbone; come back in 1.4 s"),
            DeadlineExceeded("the deadline passed before any stage could speak; allow more time"),
        )
        | _CUT_OFF
        | _answered(_VERDICT),
        openapi_extra=ONE_FILE | guard.openapi,
    )
    async def classify(
        request: Request,
        caller: Annotated[Caller, Depends(guard.client)],
        deadline_ms: DeadlineMs = None,
        timeout_s: TimeoutS = None,
        key: RequestKey = None,
    ) -> Verdict:
        arrived = time.monotonic()
        with service.admission() as place:
            most_ms = MAX_DEADLINE_MS if body_may_set_deadline(request) else None
            service.foresee(arrived + _allowed_s(profile, deadline_ms, most_ms, timeout_s))
            async with _patience(profile, deadline_ms, timeout_s):
                upload, named_ms = await read_one(request, profile.media.max_bytes, place.take)
            deadline_s = arrived + _allowed_s(profile, deadline_ms, named_ms, timeout_s)
            asked = RequestContext("http", caller.name, key)
            return await service.judge(upload.data, deadline_s, request.state.request_id, asked)

    @routes.post(
        "/v1/classify/batch",
        summary="Classify several files; each gets its own verdict or problem",
        responses=documented(
            BadRequest("the form holds no complete file; send it as field `file`"),
            MediaTooLarge(f"the request is larger than {profile.ingress.max_batch_bytes:,} bytes of media; send less"),
            UnsupportedMedia("Content-Type is image/jpeg; a batch is multipart/form-data"),
            NotReady("still loading: vlm, video"),
            DeadlineExceeded("the deadline passed while the request was read"),
        )
        | {"default": documented(BadRequest(""))[400]}
        | _CUT_OFF
        | _answered({"results": [{"filename": "a.jpg", "verdict": _VERDICT, "problem": None}]}),
        openapi_extra=MANY_FILES | guard.openapi,
    )
    async def classify_batch(
        request: Request,
        caller: Annotated[Caller, Depends(guard.client)],
        deadline_ms: DeadlineMs = None,
        timeout_s: TimeoutS = None,
        key: RequestKey = None,
    ) -> BatchResult:
        arrived = time.monotonic()
        with service.admission() as place:
            async with _patience(profile, deadline_ms, timeout_s):
                uploads, named_ms = await read_many(
                    request, profile.ingress.max_batch_files, profile.ingress.max_batch_bytes, place.take
                )
            guard.charge(caller, len(uploads), counted=1)
            deadline_s = arrived + _allowed_s(profile, deadline_ms, named_ms, timeout_s)
            asked = RequestContext("batch", caller.name, key)

            async def entry(index: int, upload: Upload) -> BatchEntry:
                name, request_id = upload.filename or f"file {index}", f"{request.state.request_id}.{index}"
                try:
                    return BatchEntry(
                        filename=name, verdict=await service.judge(upload.data, deadline_s, request_id, asked)
                    )
                except Exception as error:
                    if not isinstance(error, RoadworkError):
                        _LOG.exception("request %s failed", request_id)
                    return BatchEntry(filename=name, problem=problem_of(error, request_id))

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(entry(index, upload)) for index, upload in enumerate(uploads, 1)]
            return BatchResult(results=[task.result() for task in tasks])

    @app.get("/healthz", summary="The process lives")
    async def healthz() -> Health:
        return Health()

    @app.get("/readyz", summary="Requests are accepted", responses=documented(NotReady("still loading: vlm, video")))
    async def readyz() -> Readiness:
        return service.readiness()

    @routes.get("/v1/info", summary="What the server is made of", openapi_extra=guard.openapi)
    async def info() -> Info:
        return service.info()

    app.include_router(routes)
    app.router.routes.extend(console_routes().routes)
    return app


class _RequestId:
    """Names each request: the client's X-Request-Id when it is sane, else a new one."""

    def __init__(self, app: ASGIApp, respond: bool) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if self._respond and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, named)


def _allowed_s(profile: Profile, query_ms: int | None, body_ms: int | None, timeout_s: float | None) -> float:
    """Seconds until the answer leaves: the least of what the client asked for, or the profile's default.

    A little is kept back for the way to the client, and a little more where the proxy cuts off at exactly that time.
    """
    asked = [(ms / 1000, _WAY_BACK_S) for ms in (query_ms, body_ms) if ms is not None]
    if timeout_s is not None:
        asked.append((timeout_s, _PROXYS_S))
    asked = asked or [(profile.ingress.default_deadline_ms / 1000, _WAY_BACK_S)]
    return min(allowed_s - min(kept_s, allowed_s / 10) for allowed_s, kept_s in asked)


@asynccontextmanager
async def _patience(profile: Profile, query_ms: int | None, timeout_s: float | None):
    """Bounds the reading of a body by what is known of the deadline before it has been read."""
    try:
        async with asyncio.timeout(min(_LONGEST_BODY_S, _allowed_s(profile, query_ms, None, timeout_s))):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "the deadline passed while the request was read; allow more time with the query's deadline_ms"
        ) from None


def _answered(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": example}}}}
