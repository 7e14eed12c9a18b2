"""The HTTP application, and the routes that classify files."""

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute

from roadwork_serve.api.auth import Authenticator, Caller, HeaderLimits
from roadwork_serve.api.body_schemas import MANY_FILES, ONE_FILE
from roadwork_serve.api.console_routes import console_routes
from roadwork_serve.api.head_requests import HeadRequests
from roadwork_serve.api.incoming_bodies import BodyLimits, LimitBodies
from roadwork_serve.api.openapi import complete_openapi, operation_id
from roadwork_serve.api.other_origins import OtherOrigins
from roadwork_serve.api.own_origin import OwnOrigin
from roadwork_serve.api.plain_route import PlainRoute
from roadwork_serve.api.problem_details import documented, install_problem_handlers, problem_of
from roadwork_serve.api.request_body import body_may_set_deadline, read_many, read_one
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.api.request_id import RequestId
from roadwork_serve.api.request_parameters import DeadlineMs, FileName, RequestKey, TimeoutS
from roadwork_serve.api.security_headers import SecurityHeaders
from roadwork_serve.api.status_routes import StatusService, status_routes
from roadwork_serve.api.upload import Upload, recorded_filename
from roadwork_serve.clip_formats import CLIP_NAMES
from roadwork_serve.errors import (
    BadRequest,
    BrokenMedia,
    DeadlineExceeded,
    MediaTooLarge,
    NotReady,
    Overloaded,
    RoadworkError,
    SlowUpload,
    UnsupportedMedia,
)
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import MAX_DEADLINE_MS, BatchEntry, BatchResult, Verdict
from roadwork_serve.still_formats import STILL_NAMES

_LOG = logging.getLogger("ray.serve.roadwork.http")
_RESPONSE_MARGIN_S, _PROXY_MARGIN_S = 0.05, 0.1  # subtracted from a deadline
_MAX_UPLOAD_S = 30.0  # whatever the deadline
_PLAIN_NAME = re.compile(
    rb"[\w.()+-](?:[\w .()+-]{0,253}[\w.()+-])?"
)  # a file name that is neither quoted nor encoded, nor too long

# A verdict on a rendered scene.
_VERDICT: dict[str, Any] = json.loads(Path(__file__).with_name("verdict_example.json").read_text(encoding="utf-8"))
_DESCRIPTION = f"""Detects active road work in photos and clips, with a probability and the evidence for it.

    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/classify
    curl -F file=@clip.mp4 -F deadline_ms=5000 http://127.0.0.1:8000/v1/classify
    curl -F a=@one.jpg -F b=@two.mp4 http://127.0.0.1:8000/v1/classify/batch

Photos may be {STILL_NAMES}, clips {CLIP_NAMES}. The format is recognised by
content, not by name.
Every error is an RFC 9457 problem document. If the server has API keys, send one as `Authorization: Bearer KEY`
or `X-API-Key: KEY`."""

_TOO_SLOW = documented(SlowUpload("of the body 3 bytes have arrived, at less than 1,024 bytes a second; send less"))
_ABORTED: dict[int | str, dict[str, Any]] = {
    408: {
        "description": "The body arrives too slowly, or Ray Serve's proxy aborted the request after "
        "x-request-timeout-seconds, in plain text.",
        "content": _TOO_SLOW[408]["content"] | {"text/plain": {"schema": {"type": "string"}}},
    }
}


class HeldBytes(Protocol):
    """The bytes of a request's body."""

    def reserve_bytes(self, size: int) -> None:
        """Reserve bytes until the request ends. Raises Overloaded if all requests together exceed the limit."""
        ...


class ClassifyService(Protocol):
    """The ingress as the routes need it."""

    profile: Profile

    @property
    def status(self) -> StatusService:
        """The state of the server."""
        ...

    def receiving(self) -> AbstractContextManager[HeldBytes]:
        """Hold the bytes of a request until it ends. Raises NotReady, or Overloaded if it could not be admitted now."""
        ...

    def admission(self) -> AbstractContextManager[None]:
        """Admit a request whose body is complete. Raises NotReady or Overloaded."""
        ...

    def check_feasible(self, deadline_s: float) -> None:
        """Raise Overloaded or DeadlineExceeded, before the body is read, if a file could not be classified in time."""
        ...

    async def classify_media(self, data: bytes, deadline_s: float, request_id: str, context: RequestContext) -> Verdict:
        """Return the verdict on a file, by a deadline on the clock of `time.monotonic()`."""
        ...


def http_app(
    service: ClassifyService,
    auth: Authenticator | None = None,
    on_stop: Callable[[], Awaitable[None]] | None = None,
    name_requests: bool = True,
) -> FastAPI:
    """Return the FastAPI application over a service.

    Args:
        service: The ingress.
        auth: Authenticates callers; by default with the keys of the environment, with ConfigError if they are invalid.
        on_stop: Awaited when the application shuts down.
        name_requests: Set the X-Request-Id of responses. False behind Ray Serve's proxy, which sets it itself.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        if on_stop is not None:
            await on_stop()

    profile = service.profile
    auth = auth or Authenticator.from_environment(profile.ingress.replicas)
    routes = auth.router("client", "classify")
    app = FastAPI(
        title="roadwork-serve",
        description=_DESCRIPTION,
        version=version("roadwork-serve"),
        generate_unique_id_function=operation_id,
        docs_url=None,  # the default page loads scripts from another server; see console_routes
        redoc_url=None,
        redirect_slashes=False,  # it would send bodies to wherever the Host header says
        lifespan=lifespan,
    )
    complete_openapi(app)
    if auth.open:
        app.add_middleware(OwnOrigin, hosts=profile.ingress.allowed_hosts, origins=profile.ingress.origins)
    at_once = profile.ingress.max_ongoing_requests
    app.add_middleware(LimitBodies, limits=BodyLimits(at_once, per_caller=math.ceil(at_once / 2)))
    if profile.ingress.origins:
        app.add_middleware(OtherOrigins, origins=profile.ingress.origins)
    app.add_middleware(HeaderLimits)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestId, respond=name_requests)
    app.add_middleware(HeadRequests)
    install_problem_handlers(app)

    @routes.post(
        "/v1/classify",
        summary="Classify one photo or clip",
        responses=documented(
            BadRequest("deadline_ms is '0': Input should be greater than or equal to 1"),
            MediaTooLarge(f"the request is larger than {profile.media.max_bytes:,} bytes of media; send less"),
            UnsupportedMedia("the bytes are a PDF; send a photo or a clip of an accepted format"),
            BrokenMedia("the JPEG is truncated; send the whole file"),
            Overloaded("256 items wait for backbone; come back in 1.4 s"),
            DeadlineExceeded("the deadline passed before any stage returned a prediction; allow more time"),
        )
        | _ABORTED
        | _example(_VERDICT),
        openapi_extra=ONE_FILE | auth.openapi,
    )
    async def classify(
        request: Request,
        caller: Annotated[Caller, Depends(auth.client)],
        deadline_ms: DeadlineMs = None,
        timeout_s: TimeoutS = None,
        key: RequestKey = None,
        filename: FileName = None,
    ) -> Verdict:
        arrived = time.monotonic()
        with service.receiving() as held:
            longest_ms = MAX_DEADLINE_MS if body_may_set_deadline(request) else None
            service.check_feasible(arrived + _allowed_s(profile, deadline_ms, longest_ms, timeout_s))
            async with _upload_timeout(profile, deadline_ms, timeout_s):
                upload, named_ms = await read_one(request, profile.media.max_bytes, held.reserve_bytes)
            deadline_s = arrived + _allowed_s(profile, deadline_ms, named_ms, timeout_s)
            name = recorded_filename(upload.filename or filename or "")
            context = RequestContext("http", caller.name, key, name)
            with service.admission():
                return await service.classify_media(upload.data, deadline_s, request.state.request_id, context)

    async def classify_plain(request: Request) -> Verdict:
        caller = await auth.authenticate(request, "client")
        return await classify(request, caller, filename=request.headers.get("x-file-name"))

    @routes.post(
        "/v1/classify/batch",
        summary="Classify several files, with a verdict or a problem for each",
        responses=documented(
            BadRequest("the form holds no complete file; send it as field `file`"),
            MediaTooLarge(f"the request is larger than {profile.ingress.max_batch_bytes:,} bytes of media; send less"),
            UnsupportedMedia("Content-Type is image/jpeg; a batch is multipart/form-data"),
            NotReady("still loading: vlm, video"),
            DeadlineExceeded("the deadline passed while the request was read"),
        )
        | {"default": documented(BadRequest(""))[400]}
        | _ABORTED
        | _example({"results": [{"filename": "a.jpg", "verdict": _VERDICT, "problem": None}]}),
        openapi_extra=MANY_FILES | auth.openapi,
    )
    async def classify_batch(
        request: Request,
        caller: Annotated[Caller, Depends(auth.client)],
        deadline_ms: DeadlineMs = None,
        timeout_s: TimeoutS = None,
        key: RequestKey = None,
    ) -> BatchResult:
        arrived = time.monotonic()
        with service.receiving() as held:
            async with _upload_timeout(profile, deadline_ms, timeout_s):
                uploads, named_ms = await read_many(
                    request, profile.ingress.max_batch_files, profile.ingress.max_batch_bytes, held.reserve_bytes
                )
            auth.charge(caller, len(uploads), counted=1)
            deadline_s = arrived + _allowed_s(profile, deadline_ms, named_ms, timeout_s)

            async def entry(index: int, upload: Upload) -> BatchEntry:
                name, request_id = upload.filename or f"file {index}", f"{request.state.request_id}.{index}"
                context = RequestContext("batch", caller.name, key, recorded_filename(upload.filename))
                try:
                    return BatchEntry(
                        filename=name,
                        verdict=await service.classify_media(upload.data, deadline_s, request_id, context),
                    )
                except Exception as error:
                    if not isinstance(error, RoadworkError):
                        _LOG.exception("request %s failed", request_id)
                    return BatchEntry(filename=name, problem=problem_of(error, request_id))

            with service.admission():
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(entry(index, upload)) for index, upload in enumerate(uploads, 1)]
                return BatchResult(results=[task.result() for task in tasks])

    (documented_route,) = (each for each in routes.routes if isinstance(each, APIRoute) and each.name == "classify")
    app.router.routes.append(PlainRoute(documented_route, classify_plain, {b"x-file-name": _PLAIN_NAME}))
    app.include_router(routes)
    for each in status_routes(service.status, auth):
        app.include_router(each)
    app.router.routes.extend(console_routes().routes)
    return app


def _allowed_s(profile: Profile, query_ms: int | None, body_ms: int | None, timeout_s: float | None) -> float:
    """Return the seconds until the response must leave: the shortest requested time, or else the profile's default.

    A margin is subtracted for the way to the client, and a larger one where the proxy aborts at exactly that time.
    """
    requested = [(ms / 1000, _RESPONSE_MARGIN_S) for ms in (query_ms, body_ms) if ms is not None]
    if timeout_s is not None:
        requested.append((timeout_s, _PROXY_MARGIN_S))
    requested = requested or [(profile.ingress.default_deadline_ms / 1000, _RESPONSE_MARGIN_S)]
    return min(time_s - min(margin_s, time_s / 10) for time_s, margin_s in requested)


@asynccontextmanager
async def _upload_timeout(profile: Profile, query_ms: int | None, timeout_s: float | None):
    """Limit the upload to the deadline, as far as it is known before the body has been read."""
    try:
        async with asyncio.timeout(min(_MAX_UPLOAD_S, _allowed_s(profile, query_ms, None, timeout_s))):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "the deadline passed while the request was read; allow more time with the query's deadline_ms"
        ) from None


def _example(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": example}}}}
