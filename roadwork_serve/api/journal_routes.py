"""The routes of the journal: entries, their files, human labels, and policy previews."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from roadwork_serve.api.auth import Authenticator, Caller
from roadwork_serve.api.journal_queries import JournalQueries
from roadwork_serve.api.policy_routes import MAX_POLICY_BYTES, policy_body
from roadwork_serve.api.policy_store import parse_rollout
from roadwork_serve.api.problem_details import documented
from roadwork_serve.api.request_body import read_whole
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.decimal_text import DecimalInt
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
_MAX_LABEL_BYTES = 16 * 1024
_DOWN = documented(JournalDown("the journal does not answer at the moment; come back in a few seconds"))
_BAD_QUERY = documented(BadRequest("limit is '0': Input should be greater than or equal to 1"))
_UNKNOWN = documented(NotFound("the journal has no prediction 5f1c9a7e"))

AnswerId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="The `answer_id` of a verdict.")]
Sort = Annotated[
    Literal["newest", "informativeness"],
    Query(
        description="Order of the entries: the newest first, or the most informative unlabeled entries first (active "
        "learning)."
    ),
]


def journal_routes(
    journal: JournalQueries,
    active: Callable[[], Rollout],
    check: Callable[[Rollout], None],
    auth: Authenticator,
) -> APIRouter:
    """Return the routes. They are for admins; on a server without keys, for everyone who may use the server.

    Args:
        journal: The journal.
        active: Returns the active rollout.
        check: Raises PolicyRefused for a rollout that this server cannot run.
        auth: Authenticates callers.
    """
    routes = auth.router("journal_reader")

    @routes.get("/v1/journal", summary="List journal entries", responses=_BAD_QUERY | _DOWN, openapi_extra=auth.openapi)
    async def entries(
        limit: Annotated[DecimalInt, Query(ge=1, le=200, description="Maximum number of entries.")] = 20,
        sort: Sort = "newest",
    ) -> JournalPage:
        if sort == "informativeness":
            return await journal.informative(limit, active().policy.decision_threshold)
        return await journal.recent(limit)

    @routes.get(
        "/v1/journal/{answer}/media",
        summary="Download the file of an entry, if it is stored",
        response_class=Response,
        responses=_BAD_QUERY
        | _DOWN
        | _UNKNOWN
        | {200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}},
        openapi_extra=auth.openapi,
    )
    async def media(answer: AnswerId) -> Response:
        data = await journal.media(answer)
        safe = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "private"}
        return Response(data, media_type=sniff(data), headers=safe)

    @routes.put(
        "/v1/journal/{answer}/label",
        summary="Label the file of an entry; the latest label counts",
        responses=documented(
            BadRequest("label is 'maybe': Input should be 'roadwork', 'none' or 'unclear'"),
            MediaTooLarge(f"the request is larger than {_MAX_LABEL_BYTES:,} bytes; send less"),
            UnsupportedMedia("Content-Type is text/plain; send application/json"),
        )
        | _DOWN
        | _UNKNOWN,
        openapi_extra=_body(HumanLabel.model_json_schema(), {"label": "roadwork"}) | auth.openapi,
    )
    async def label(
        request: Request, answer: AnswerId, caller: Annotated[Caller, Depends(auth.journal_reader)]
    ) -> JournalEntry:
        body = await _json(request, _MAX_LABEL_BYTES)
        try:
            human_label = HumanLabel.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
        return await journal.label(answer, human_label, caller.name)

    @routes.post(
        "/v1/policy/preview",
        summary="Replay a policy on the latest journal entries",
        responses=documented(
            BadRequest("the body is not JSON: Expecting value"),
            MediaTooLarge(f"the request is larger than {MAX_POLICY_BYTES:,} bytes; send less"),
            UnsupportedMedia("Content-Type is text/plain; send application/json"),
            PolicyRefused("policy.photo[0].exit: low 0.9 is above high 0.1; write [0.1, 0.9]?"),
        )
        | _DOWN,
        openapi_extra=policy_body("A policy, or a rollout whose policy is replayed.") | auth.openapi,
    )
    async def preview(
        request: Request,
        last: Annotated[
            DecimalInt, Query(ge=1, le=MAX_PREVIEWED, description="Number of the latest entries to replay.")
        ] = 500,
    ) -> PolicyPreview:
        rollout = parse_rollout(await _json(request, MAX_POLICY_BYTES))
        check(rollout)
        return await journal.preview(active().policy, rollout.policy, last)

    return routes


async def _json(request: Request, max_bytes: int) -> object:
    """Return the body. Only application/json is accepted, because a browser does not send it cross-site unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMedia(f"Content-Type is {kind or 'missing'}; send application/json")
    try:
        return json.loads(await read_whole(request, max_bytes))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _body(schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
