"""The calls of the API: for each its request, and how to parse the response."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import BadRequest
from roadwork_serve.schema import (
    BatchResult,
    Health,
    HumanLabel,
    Job,
    JobPage,
    JobSummary,
    JournalEntry,
    JournalPage,
    Label,
    MediaKind,
    PolicyChange,
    PolicyPreview,
    Readiness,
    ReviewLabel,
    Stats,
    Verdict,
)
from roadwork_serve.server_state import Info, PolicyState

# The bytes of a photo or clip, or the path of a file with them.
Media = bytes | Path
# A file of a batch: its path, or the name to report it by and its bytes.
BatchFile = Path | tuple[str, bytes]
# A policy, or a rollout with one, as a model or as plain data.
PolicyBody = Policy | Rollout | Mapping[str, Any]

_CHUNK_BYTES = 2**18
_MAX_FILENAME = 255  # characters, which is all that the server records
_SAFE = " !#$&'()+,;=@[]^`{}~"  # besides letters, digits, and _.-

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call of the API: its request and how to parse the response."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str | bytes] = field(default_factory=dict[str, str | bytes])
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    #: A file to send as the body, which is read while it is sent.
    file: Path | None = None
    deadline_ms: int | None = None
    #: When the request may be sent again: if the server rejected it, whatever the server did with it, or never.
    repeat: Literal["if_rejected", "always", "never"] = "if_rejected"


def _model(kind: type[M]) -> Callable[[httpx.Response], M]:
    """Return a parser of a wire model. Fields that a newer server has added are ignored."""
    return lambda response: kind.model_validate_json(response.content, extra="ignore")


HEALTH = Call("GET", "/healthz", _model(Health), repeat="never")
READY = Call("GET", "/readyz", _model(Readiness), repeat="never")
INFO = Call("GET", "/v1/info", _model(Info), repeat="always")
STATS = Call("GET", "/v1/stats", _model(Stats), repeat="always")
POLICY = Call("GET", "/v1/policy", _model(PolicyState), repeat="always")
ROLLBACK = Call("POST", "/v1/policy/rollback", _model(PolicyChange))


def classify(
    media: Media, deadline_ms: int | None, request_key: str | None, request_id: str | None, filename: str | None
) -> Call[Verdict]:
    """Return the call for one file, which is read here. Raises BadRequest when it cannot be read."""
    name = media.name if filename is None and isinstance(media, Path) else filename
    headers = {"Content-Type": "application/octet-stream"} | _request_headers(request_key, request_id, name)
    content = read(media)
    return Call("POST", "/v1/classify", _model(Verdict), headers=headers, content=content, deadline_ms=deadline_ms)


def classify_batch(
    files: list[tuple[str, bytes]], deadline_ms: int | None, request_key: str | None, request_id: str | None
) -> Call[BatchResult]:
    """Return the call for several files."""
    return Call(
        "POST",
        "/v1/classify/batch",
        _model(BatchResult),
        headers=_request_headers(request_key, request_id),
        files=[("file", file) for file in files],
        deadline_ms=deadline_ms,
    )


def create_job(path: Path, request_key: str | None, request_id: str | None) -> Call[JobSummary]:
    """Return the call that sends a long clip, which is read while it is sent. Raises BadRequest if there is no file."""
    if not path.is_file():
        raise BadRequest(f"{path} is no file")
    headers = {"Content-Type": "application/octet-stream"} | _request_headers(request_key, request_id, path.name)
    headers["Content-Length"] = str(path.stat().st_size).encode()
    return Call("POST", "/v1/jobs", _model(JobSummary), headers=headers, file=path, repeat="never")


def job(job_id: str) -> Call[Job]:
    """Return the call that shows a job."""
    return Call("GET", f"/v1/jobs/{quote(job_id, safe='')}", _model(Job), repeat="always")


def jobs(limit: int) -> Call[JobPage]:
    """Return the call that lists jobs."""
    return Call("GET", "/v1/jobs", _model(JobPage), {"limit": limit}, repeat="always")


def cancel_job(job_id: str) -> Call[JobSummary]:
    """Return the call that cancels a job."""
    return Call("DELETE", f"/v1/jobs/{quote(job_id, safe='')}", _model(JobSummary), repeat="always")


def put_policy(policy: PolicyBody) -> Call[PolicyChange]:
    """Return the call that activates a policy."""
    return Call("PUT", "/v1/policy", _model(PolicyChange), **_json(policy), repeat="always")


def preview_policy(policy: PolicyBody, last: int) -> Call[PolicyPreview]:
    """Return the call that replays a policy on journal entries."""
    return Call("POST", "/v1/policy/preview", _model(PolicyPreview), {"last": last}, **_json(policy), repeat="always")


class JournalFilter(TypedDict, total=False):
    """Filters of journal entries; each may be left out."""

    #: Predicted label.
    label: Label
    #: Name of the stage at which the entry exited.
    exit_stage: str
    media: MediaKind
    #: Whether a stage's own probability speaks against the label.
    disagreement: bool
    #: Whether a person has labeled the entry.
    labeled: bool
    #: Start, included.
    since: datetime
    #: End, excluded.
    until: datetime
    #: A part of the file's name.
    filename: str


def journal(limit: int | None, sort: str, cursor: str | None, where: JournalFilter) -> Call[JournalPage]:
    """Return the call that lists journal entries."""
    params: dict[str, Any] = {"sort": sort, "limit": limit, "cursor": cursor, **where}
    for name, value in params.items():
        if isinstance(value, datetime):
            params[name] = value.astimezone(UTC).isoformat()
    present = {name: value for name, value in params.items() if value is not None}
    return Call("GET", "/v1/journal", _model(JournalPage), present, repeat="always")


def journal_media(entry_id: str) -> Call[bytes]:
    """Return the call that downloads the file of an entry."""
    path = f"/v1/journal/{quote(entry_id, safe='')}/media"
    return Call("GET", path, lambda response: response.content, repeat="always")


def journal_thumbnail(entry_id: str) -> Call[bytes]:
    """Return the call that gets a small picture of the file of an entry."""
    path = f"/v1/journal/{quote(entry_id, safe='')}/thumbnail"
    return Call("GET", path, lambda response: response.content, repeat="always")


def withdraw_label(entry_id: str) -> Call[JournalEntry]:
    """Return the call that withdraws the caller's label of an entry."""
    return Call("DELETE", f"/v1/journal/{quote(entry_id, safe='')}/label", _model(JournalEntry))


def label_entry(entry_id: str, label: ReviewLabel, note: str) -> Call[JournalEntry]:
    """Return the call that labels an entry."""
    path = f"/v1/journal/{quote(entry_id, safe='')}/label"
    return Call("PUT", path, _model(JournalEntry), **_json(HumanLabel(label=label, note=note)), repeat="always")


def _request_headers(request_key: str | None, request_id: str | None, filename: str | None = None) -> dict[str, bytes]:
    """Return the headers with names: text in UTF-8, a file's name percent-encoded. Raises BadRequest."""
    named = {"X-Request-Key": request_key, "X-Request-Id": request_id}
    for name, value in named.items():
        if value is not None and not value.isprintable():
            raise BadRequest(f"{name} is {value[:80]!r}; it has to be printable text")
    headers = {name: value.encode() for name, value in named.items() if value is not None}
    if filename:
        headers["X-File-Name"] = quote(filename[:_MAX_FILENAME].encode("utf-8", "replace"), safe=_SAFE).encode()
    return headers


def _json(body: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """Return the content and the headers of a request with a JSON body."""
    plain = body.model_dump(mode="json", exclude_none=True) if isinstance(body, BaseModel) else body
    return {"content": json.dumps(plain).encode(), "headers": {"Content-Type": "application/json"}}


def chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


async def chunks_async(path: Path) -> AsyncIterator[bytes]:
    """Yield the bytes of a file, which a thread reads."""
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


def read(media: Media) -> bytes:
    """Return the bytes of a file. Raises BadRequest when it cannot be read."""
    if isinstance(media, bytes):
        return media
    try:
        return media.read_bytes()
    except OSError as error:
        raise BadRequest(f"{media} cannot be read: {error.strerror or error}") from None


def read_all(files: Iterable[BatchFile]) -> list[tuple[str, bytes]]:
    """Return names and bytes of files. Raises BadRequest when one cannot be read."""
    return [(file.name, read(file)) if isinstance(file, Path) else file for file in files]
