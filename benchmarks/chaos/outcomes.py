"""What became of a request, and how that is told from a reply."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from benchmarks.chaos.plan import File
from roadwork_serve.schema import Problem, Verdict

Outcome = Literal[
    "answered",  # with a verdict of its own
    "refused",  # 429, 503 or 504 with a problem document of ours
    "cut off",  # the deadline was over before an answer of ours had come; the client was told by a broken connection
    "client error",  # a hostile file got its problem
    "unanswered",  # nothing came, not even long after the deadline
    "wrong",  # anything else
]
REFUSALS = (429, 503, 504)
# What Serve's proxy says in its own words: when a process dies under a request, and, with 404, when the proxy itself
# has just been started anew and has not heard of any route yet.
PLAIN = (404, 500, 502, 503)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP response. kind: its content type, without parameters."""

    status: int
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says. outcome: None when it is Serve's own and not ours, so that the request may be sent again."""

    outcome: Outcome | None
    told: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A request that was followed to its end. Seconds on the clock of the run.

    phase: in which it was sent. told: the slug of a problem, or what was wrong.
    broken: connections that broke under it. plain: Serve's own errors it got. lag_s: the most by which the load
    generator itself was late while the request was on its way.
    """

    request_id: str
    kind: str
    phase: str
    sent_s: float
    ended_s: float
    deadline_s: float
    outcome: Outcome
    told: str = ""
    verdict: Verdict | None = None
    broken: int = 0
    plain: int = 0
    lag_s: float = 0.0

    @property
    def took_s(self) -> float:
        """From the first time it was sent to the end."""
        return self.ended_s - self.sent_s

    @property
    def late_s(self) -> float:
        """How much later it ended than its deadline and the load generator's own lag allow; negative: earlier."""
        return self.took_s - self.deadline_s - self.lag_s

    def in_time(self, slack_s: float) -> bool:
        """Answered, and no later than this beyond its deadline."""
        return self.outcome == "answered" and self.late_s <= slack_s


def read(reply: Reply, file: File, request_id: str) -> Reading:
    """Return the outcome of a reply to this file."""
    if reply.status == 200:
        return _verdict(reply, file, request_id)
    if reply.kind != "application/problem+json":
        told = f"plain {reply.status}"
        return Reading(None if reply.status in PLAIN else "wrong", told)
    try:
        problem = Problem.model_validate_json(reply.body)
    except ValidationError:
        return Reading("wrong", f"a problem document of {reply.status} that is none")
    slug = problem.type.rpartition(":")[2]
    if problem.instance != request_id:
        return Reading("wrong", f"{slug} for request {problem.instance}")
    if problem.status != reply.status:
        return Reading("wrong", f"{slug} says {problem.status} under {reply.status}")
    if reply.status in REFUSALS:
        return Reading("refused", slug)
    if file.refusal == reply.status:
        return Reading("client error", slug)
    wanted = "a verdict" if file.refusal is None else str(file.refusal)
    return Reading("wrong", f"{file.name} got {reply.status} {slug} instead of {wanted}: {problem.detail[:200]}")


def _verdict(reply: Reply, file: File, request_id: str) -> Reading:
    try:
        verdict = Verdict.model_validate_json(reply.body)
    except ValidationError as error:
        return Reading("wrong", f"a verdict that is none: {error.errors()[0]['msg']}")
    if verdict.request_id != request_id:
        return Reading("wrong", f"the verdict of request {verdict.request_id}")
    if file.refusal is not None:
        return Reading("wrong", f"{file.name} got a verdict")
    if verdict.media != ("clip" if file.kind == "clip" else "photo"):
        return Reading("wrong", f"{file.name} was taken for a {verdict.media}")
    return Reading("answered", "degraded" if verdict.degraded else verdict.exit.reason, verdict)
