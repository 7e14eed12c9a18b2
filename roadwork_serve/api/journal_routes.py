"""The routes over what was answered: the latest, the hard ones, their files, what people say of them."""

import json
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from roadwork_serve.api.auth import Authenticator, Caller
from roadwork_serve.api.policy_routes import MAX_POLICY_BYTES, policy_body
from roadwork_serve.api.problem_details import documented
from roadwork_serve.api.request_body import read_whole
from roadwork_serve.errors import (
    BadRequest,
    JournalDown,
    MediaTooLarge,
    NotFound,
    PolicyRefused,
    UnsupportedMedia,
)
from roadwork_serve.media.sniff import sniff
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview

MAX_PREVIEWED = 2000
_MAX_SAID_BYTES = 16 * 1024
_DOWN = documented(JournalDown("the journal does not answer at the moment; come back in a few seconds"))
_ASKED = documented(BadRequest("limit is '0': Input should be greater than or equal to 1"))
_UNKNOWN = documented(NotFound("no answer is known by 5f1c9a7e"))

AnswerId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="`answer_id` of a verdict")]


class JournalService(Protocol):
    """What the routes need of the ingress. Each method raises JournalDown and NotFound."""

    async def recent(self, limit: int) -> JournalPage:
        """The latest answers, the newest first."""
        ...

    async def hard(self, limit: int) -> JournalPage:
        """Of the latest that nobody has labelled those that teach most."""
        ...

    async def media(self, name: str) -> bytes:
        """The encoded file of an answer."""
        ...

    async def say(self, name: str, said: HumanLabel, by: str) -> JournalEntry:
        """Write down what a person says of an answer."""
        ...

    async def preview(self, rules: object, last: int) -> PolicyPreview:
        """What a policy would have made of the latest answers. Raises PolicyRefused."""
        ...


def journal_routes(service: JournalService, guard: Authenticator) -> APIRouter:
    """The routes. What others sent is shown to admins; without keys to whoever may use the server."""
    routes = guard.router("keeper")

    @routes.get("/v1/journal", summary="The latest answers", responses=_ASKED | _DOWN, openapi_extra=guard.openapi)
    async def recent(limit: Annotated[int, Query(ge=1, le=200)] = 20) -> JournalPage:
        return await service.recent(limit)

    @routes.get(
        "/v1/journal/hard",
        summary="The latest answers that nobody has labelled and that teach most",
        responses=_ASKED | _DOWN,
        openapi_extra=guard.openapi,
    )
    async def hard(limit: Annotated[int, Query(ge=1, le=100)] = 12) -> JournalPage:
        return await service.hard(limit)

    @routes.get(
        "/v1/journal/{answer}/media",
        summary="The file of an answer, where it is kept",
        response_class=Response,
        responses=_ASKED
        | _DOWN
        | _UNKNOWN
        | {200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}},
        openapi_extra=guard.openapi,
    )
    async def media(answer: AnswerId) -> Response:
        data = await service.media(answer)
        safe = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "private"}
        return Response(data, media_type=sniff(data), headers=safe)

    @routes.put(
        "/v1/journal/{answer}/label",
        summary="Say what an answer's file shows; the last word counts",
        responses=documented(
            BadRequest("label is 'maybe': Input should be 'roadwork', 'none' or 'unclear'"),
            MediaTooLarge(f"the request is larger than {_MAX_SAID_BYTES:,} bytes; send less"),
            UnsupportedMedia("Content-Type is text/plain; send application/json"),
        )
        | _DOWN
        | _UNKNOWN,
        openapi_extra=_body(HumanLabel.model_json_schema(), {"label": "roadwork"}) | guard.openapi,
    )
    async def say(request: Request, answer: AnswerId, caller: Annotated[Caller, Depends(guard.keeper)]) -> JournalEntry:
        body = await _json(request, _MAX_SAID_BYTES)
        try:
            said = HumanLabel.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
        return await service.say(answer, said, caller.name)

    @routes.post(
        "/v1/policy/preview",
        summary="What a policy would have made of the latest answers",
        responses=documented(
            BadRequest("the body is no JSON: Expecting value"),
            MediaTooLarge(f"the request is larger than {MAX_POLICY_BYTES:,} bytes; send less"),
            UnsupportedMedia("Content-Type is text/plain; send application/json"),
            PolicyRefused("policy: photo[0].exit: low 0.9 is above high 0.1; write [0.1, 0.9]?"),
        )
        | _DOWN,
        openapi_extra=policy_body("A policy.") | guard.openapi,
    )
    async def preview(
        request: Request, last: Annotated[int, Query(ge=1, le=MAX_PREVIEWED, description="answers")] = 500
    ) -> PolicyPreview:
        return await service.preview(await _json(request, MAX_POLICY_BYTES), last)

    return routes


async def _json(request: Request, max_bytes: int) -> object:
    """The body. A browser lets a foreign page send no JSON here unasked, so nothing else is taken."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMedia(f"Content-Type is {kind or 'missing'}; send application/json")
    try:
        return json.loads(await read_whole(request, max_bytes))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None


def _body(schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
