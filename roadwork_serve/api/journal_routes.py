"""The routes of the journal: entries, their files, human labels, and policy previews."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from roadwork_serve.api.auth import Authenticator, Caller
from roadwork_serve.api.journal_parameters import Sort, journal_filter
from roadwork_serve.api.journal_queries import JournalQueries
from roadwork_serve.api.openapi import reference
from roadwork_serve.api.policy_routes import MAX_POLICY_BYTES, policy_body
from roadwork_serve.api.policy_store import parse_rollout
from roadwork_serve.api.problem_details import documented
from roadwork_serve.api.request_body import read_whole
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.decimal_text import DecimalInt
from roadwork_serve.errors import (
    BadRequest,
    BrokenMedia,
    DeadlineExceeded,
    JournalDown,
    MediaTooLarge,
    NotFound,
    PolicyRefused,
    UnsupportedMedia,
)
from roadwork_serve.journal.filter import Filter
from roadwork_serve.media.sniff import sniff
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview

MAX_PREVIEWED = 2000
_MAX_LABEL_BYTES = 16 * 1024
_DOWN = documented(JournalDown("the journal does not answer at the moment; come back in a few seconds"))
_BAD_QUERY = documented(BadRequest("limit is '0': Input should be greater than or equal to 1"))
_UNKNOWN = documented(NotFound("the journal has no prediction 5f1c9a7e"))

AnswerId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="The `answer_id` of a verdict.")]
Cursor = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9.e+-]{1,32}_[A-Za-z0-9._:-]{0,64}$",
        description="The `next_cursor` of a page: the entries behind it are listed. By default the newest.",
    ),
]
_FILE_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "private"}


def journal_routes(
    queries: JournalQueries,
    active: Callable[[], Rollout],
    check: Callable[[Rollout], None],
    auth: Authenticator,
    thumbnail: Callable[[Callable[[], Awaitable[bytes]]], Awaitable[bytes]],
) -> APIRouter:
    """Return the routes, which are for admins.

    Args:
        queries: The journal.
        active: Returns the active rollout.
        check: Raises PolicyRefused for a rollout that this server cannot run.
        auth: Authenticates callers.
        thumbnail: Returns a small JPEG of the file that a function loads; see `ThumbnailMaker.make`.
    """
    routes = auth.router("admin", "journal")

    @routes.get("/v1/journal", summary="List journal entries", responses=_BAD_QUERY | _DOWN)
    async def journal(
        where: Annotated[Filter, Depends(journal_filter)],
        limit: Annotated[DecimalInt, Query(ge=1, le=200, description="Maximum number of entries.")] = 20,
        sort: Annotated[
            Sort,
            Query(
                description="Order of the entries: the newest first, or the most informative unlabeled entries first "
                "(active learning)."
            ),
        ] = "newest",
        cursor: Cursor = None,
    ) -> JournalPage:
        if sort == "newest":
            return await queries.recent(limit, where, cursor)
        if cursor is not None:
            raise BadRequest("a cursor continues a listing of the newest entries; leave it out, or sort by newest")
        return await queries.informative(limit, where, active().policy.decision_threshold)

    @routes.get(
        "/v1/journal/{answer}/media",
        summary="Download the file of an entry, if it is stored",
        response_class=Response,
        responses=_BAD_QUERY
        | _DOWN
        | _UNKNOWN
        | {200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def journal_media(answer: AnswerId) -> Response:
        data = await queries.media(answer)
        return Response(data, media_type=sniff(data), headers=_FILE_HEADERS)

    @routes.get(
        "/v1/journal/{answer}/thumbnail",
        summary="Show a small JPEG of the file of an entry, if it is stored",
        response_class=Response,
        responses=_BAD_QUERY
        | documented(
            BrokenMedia("the photo is damaged or truncated; send the whole file"),
            DeadlineExceeded("the deadline passed before the file was decoded; allow more time"),
        )
        | _DOWN
        | _UNKNOWN
        | {200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def journal_thumbnail(answer: AnswerId) -> Response:
        data = await thumbnail(partial(queries.media, answer))
        return Response(data, media_type="image/jpeg", headers=_FILE_HEADERS)

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
        openapi_extra=_body(reference(HumanLabel), {"label": "roadwork"}),
    )
    async def label(request: Request, answer: AnswerId, caller: Annotated[Caller, Depends(auth.admin)]) -> JournalEntry:
        body = await _json(request, _MAX_LABEL_BYTES)
        try:
            human_label = HumanLabel.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
        return await queries.label(answer, human_label, caller.name)

    @routes.delete(
        "/v1/journal/{answer}/label",
        summary="Withdraw your label of an entry, if it is the latest; an earlier label counts again",
        responses=_BAD_QUERY | _DOWN | _UNKNOWN,
    )
    async def withdraw_label(answer: AnswerId, caller: Annotated[Caller, Depends(auth.admin)]) -> JournalEntry:
        return await queries.withdraw_label(answer, caller.name)

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
        openapi_extra=policy_body("A policy, or a rollout whose policy is replayed."),
    )
    async def preview_policy(
        request: Request,
        last: Annotated[
            DecimalInt, Query(ge=1, le=MAX_PREVIEWED, description="Number of the latest entries to replay.")
        ] = 500,
    ) -> PolicyPreview:
        rollout = parse_rollout(await _json(request, MAX_POLICY_BYTES))
        check(rollout)
        return await queries.preview(active().policy, rollout.policy, last)

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
