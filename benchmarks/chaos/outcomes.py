"""The outcome of a request, derived from the reply."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from benchmarks.chaos.plan import File
from roadwork_serve.schema import Problem, Verdict

Outcome = Literal[
    "answered",  # with its own verdict
    "refused",  # 429, 503 or 504 with a problem document
    "cut off",  # the deadline passed while connections broke, before there was a reply
    "client error",  # a hostile file was rejected as expected
    "unanswered",  # no reply, not even long after the deadline
    "wrong",  # anything else
]
REFUSALS = (429, 503, 504)
# Plain-text errors of Serve's proxy: when a process dies during a request, and 404 when the proxy itself has just
# restarted and has no routes yet.
PLAIN = (404, 500, 502, 503)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP response."""

    status: int
    #: Content type, without parameters.
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """The content of a reply."""

    #: None if the reply is Serve's own, so that the request may be retried.
    outcome: Outcome | None
    #: The slug of a problem, or the fault.
    detail: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A request that was followed to its end. Times are seconds on the clock of the run."""

    request_id: str
    kind: str
    #: The phase in which it was sent.
    phase: str
    sent_s: float
    ended_s: float
    deadline_s: float
    outcome: Outcome
    #: The slug of a problem, or the fault.
    detail: str = ""
    verdict: Verdict | None = None
    #: Connections that broke during it.
    broken_connections: int = 0
    #: Serve's own errors during it.
    serve_errors: int = 0
    #: Largest lag of the load generator during it.
    lag_s: float = 0.0

    @property
    def took_s(self) -> float:
        """Time from the first attempt to the end."""
        return self.ended_s - self.sent_s

    @property
    def late_s(self) -> float:
        """Delay after the deadline and the load generator's own lag; negative if early."""
        return self.took_s - self.deadline_s - self.lag_s

    def in_time(self, slack_s: float) -> bool:
        """Return whether it was answered, at most this much after its deadline."""
        return self.outcome == "answered" and self.late_s <= slack_s


def parse_reply(reply: Reply, file: File, request_id: str) -> ParsedReply:
    """Return the outcome of a reply to this file."""
    if reply.status == 200:
        return _verdict(reply, file, request_id)
    if reply.kind != "application/problem+json":
        detail = f"plain {reply.status}"
        return ParsedReply(None if reply.status in PLAIN else "wrong", detail)
    try:
        problem = Problem.model_validate_json(reply.body)
    except ValidationError:
        return ParsedReply("wrong", f"an invalid problem document with status {reply.status}")
    slug = problem.type.rpartition(":")[2]
    if problem.instance != request_id:
        return ParsedReply("wrong", f"{slug} for request {problem.instance}")
    if problem.status != reply.status:
        return ParsedReply("wrong", f"{slug} has status {problem.status} in a response with {reply.status}")
    if reply.status in REFUSALS:
        return ParsedReply("refused", slug)
    if file.expected_status == reply.status:
        return ParsedReply("client error", slug)
    expected = "a verdict" if file.expected_status is None else str(file.expected_status)
    return ParsedReply("wrong", f"{file.name} got {reply.status} {slug} instead of {expected}: {problem.detail[:200]}")


def _verdict(reply: Reply, file: File, request_id: str) -> ParsedReply:
    try:
        verdict = Verdict.model_validate_json(reply.body)
    except ValidationError as error:
        return ParsedReply("wrong", f"an invalid verdict: {error.errors()[0]['msg']}")
    if verdict.request_id != request_id:
        return ParsedReply("wrong", f"the verdict of request {verdict.request_id}")
    if file.expected_status is not None:
        return ParsedReply("wrong", f"{file.name} got a verdict")
    if verdict.media != ("clip" if file.kind == "clip" else "photo"):
        return ParsedReply("wrong", f"{file.name} was taken for a {verdict.media}")
    return ParsedReply("answered", "degraded" if verdict.degraded else verdict.exit.reason, verdict)
