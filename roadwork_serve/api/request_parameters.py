"""Parameters of requests beside the body: deadlines, names, and the check that a query has no others."""

from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any

from fastapi import Header, Query, Request
from fastapi.dependencies.models import Dependant
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from roadwork_serve.api.problem_details import echo
from roadwork_serve.api.upload import filename_of_header
from roadwork_serve.decimal_text import DecimalFloat, DecimalInt
from roadwork_serve.errors import BadRequest
from roadwork_serve.schema import MAX_DEADLINE_MS

DeadlineMs = Annotated[
    DecimalInt | None,
    Query(ge=1, le=MAX_DEADLINE_MS, description="Deadline of the response in milliseconds.", examples=[2000]),
]
TimeoutS = Annotated[
    DecimalFloat | None,
    Header(
        alias="x-request-timeout-seconds",
        gt=0,
        le=MAX_DEADLINE_MS / 1000,
        allow_inf_nan=False,
        description="The same in seconds. The proxy aborts the request after this time.",
    ),
]


def _text_of_key(value: object) -> object:
    """Return a header as the UTF-8 text it is. Starlette decodes headers as Latin-1."""
    if not isinstance(value, str):
        return value
    with suppress(UnicodeError):
        if (text := value.encode("latin-1").decode("utf-8")).isprintable():
            return text
    raise PydanticCustomError("printable", "Input should be printable text in UTF-8")


def _text_of_filename(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return filename_of_header(value)
    except ValueError:
        raise PydanticCustomError("utf8", "Input should be a file name in UTF-8, maybe percent-encoded") from None


RequestKey = Annotated[
    str | None,
    BeforeValidator(_text_of_key),
    Header(
        alias="x-request-key",
        max_length=256,
        description="Group of the request, such as a camera or a trip: an A/B test assigns it to one arm. "
        "By default every request is its own group.",
    ),
]
FileName = Annotated[
    str | None,
    BeforeValidator(_text_of_filename),
    Header(
        alias="x-file-name",
        max_length=4096,
        description="Name of the file, for the journal: UTF-8, or UTF-8 in percent-encoding (`%` itself is `%25`). "
        "The name in a form takes precedence. At most 255 characters are recorded.",
    ),
]


async def check_query(request: Request) -> None:
    """Raise BadRequest if the query has a parameter that the route does not have. A dependency of routes."""
    known = set(_query_names(request.scope["route"].dependant))
    for name in request.query_params:
        if name not in known:
            plain = name.strip().lower().removesuffix("[]").replace("-", "_")
            meant = get_close_matches(plain, known, 1, 0.7)
            cure = f"write {meant[0]}" if meant else f"this route has {', '.join(sorted(known)) or 'none'}"
            raise BadRequest(f"unknown query parameter {echo(name)}; {cure}")


def _query_names(dependant: Dependant) -> Iterator[str]:
    fields: list[Any] = dependant.query_params
    yield from (each.alias for each in fields)
    for each in dependant.dependencies:
        yield from _query_names(each)
