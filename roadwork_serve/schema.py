"""The wire: what a client sends beside the media, and what it gets back."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Label = Literal["roadwork", "none"]
MediaKind = Literal["photo", "clip"]
ExitReason = Literal[
    "above_band",  # the posterior is above the stage's exit band: roadwork
    "below_band",  # below it: none
    "last_stage",  # still inside the band, but no stage is left to ask
    "deadline",  # the time left would not suffice for the next stage
    "failed",  # later stages were wanted and failed
]
Outcome = Literal["answered", "abstained", "failed", "skipped"]

MAX_DEADLINE_MS = 600_000


class WireModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Box(WireModel):
    """A rectangle on the image in shares of its width and height, from the top left corner."""

    x0: float = Field(ge=0, le=1)
    y0: float = Field(ge=0, le=1)
    x1: float = Field(ge=0, le=1)
    y1: float = Field(ge=0, le=1)


class TextLine(WireModel):
    """One line of text read off the image."""

    text: str
    confidence: float = Field(ge=0, le=1, description="the reader's own confidence")
    meaning: str | None = Field(
        default=None, description="what it says of road work: begin, closure, detour, worker, end, neutral"
    )
    box: Box
    frame: int = Field(default=0, ge=0, description="which frame of a clip; 0 for a photo")


class Evidence(WireModel):
    """What made a stage think so."""

    words: list[TextLine] = Field(default_factory=list[TextLine])
    thought: str | None = Field(default=None, description="what a thinking model wrote before its answer")
    other_token_mass: float | None = Field(
        default=None, ge=0, le=1, description="probability mass a VLM gave to words that are neither yes nor no"
    )
    from_choice: bool = Field(
        default=False, description="a server told only which answer it chose, so the probability is no more than that"
    )
    text_probability: float | None = Field(
        default=None, ge=0, le=1, description="stage 1's probability that words worth reading are on the image"
    )
    frames: list[float] = Field(default_factory=list[float], description="probability per sampled frame of a clip")


class StageReport(WireModel):
    """What one stage said of one item, and what it cost. All times in milliseconds, measured."""

    stage: str
    outcome: Outcome
    model: str | None = Field(default=None, description="the model that spoke")
    head: str | None = Field(default=None, description="of stage 1, the head that the policy wants it to speak with")
    miniature: bool = Field(default=False, description="true when it was a small stand-in for the production model")
    probability: float | None = Field(default=None, ge=0, le=1, description="the stage's own word, uncalibrated")
    second_probability: float | None = Field(
        default=None, ge=0, le=1, description="the word of a second head on trial; it moves nothing"
    )
    posterior: float | None = Field(default=None, ge=0, le=1, description="the cascade's belief after this stage")
    detail: str | None = Field(default=None, description="why it failed or was skipped")
    queue_ms: float = Field(default=0, ge=0, description="waiting for a free slot of the stage")
    preprocess_ms: float = Field(default=0, ge=0, description="decoding and collating the batch in the stage")
    compute_ms: float = Field(default=0, ge=0, description="the model itself, for the whole batch")
    rpc_ms: float = Field(default=0, ge=0, description="the way to the stage and back")
    batch_size: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0, description="tokens written by a VLM")
    evidence: Evidence = Field(default_factory=Evidence)


class Exit(WireModel):
    """Where and why the item left the cascade."""

    stage: str
    reason: ExitReason


class Verdict(WireModel):
    """The answer: is there active road work, how sure are we, and what made us think so."""

    answer_id: str = Field(default="", description="names this answer among all; the journal knows it by that")
    request_id: str
    media: MediaKind
    label: Label
    probability: float = Field(ge=0, le=1, description="posterior probability of active road work")
    exit: Exit
    degraded: bool = Field(default=False, description="true when a stage that was wanted failed or was missing")
    stages: list[StageReport]
    policy_version: str
    degradation_level: int = Field(
        default=0, ge=0, description="how far load had narrowed the policy's exit bands; 0 is not at all"
    )
    arm: Literal["a", "b"] | None = Field(
        default=None, description="which side of an A/B test answered: a is the policy in force, b the one on trial"
    )
    shadow: str | None = Field(
        default=None, description="version of the policy that judges this item too, later and beside this answer"
    )
    audit: float | None = Field(
        default=None, gt=0, le=1, description="share of the traffic that every stage judges, later; this item is of it"
    )
    profile: str
    elapsed_ms: float = Field(ge=0)


class Problem(WireModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="urn of the kind of problem, stable")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str | None = Field(default=None, description="the request id")


class BatchEntry(WireModel):
    """One file's result in a batch: a verdict or a problem, never both."""

    filename: str
    verdict: Verdict | None = None
    problem: Problem | None = None


class BatchResult(WireModel):
    """The answer to a batch, in the order in which the files were sent."""

    results: list[BatchEntry]


class ClassifyRequest(WireModel):
    """The JSON form of a classification request."""

    image: str | None = Field(default=None, description="standard base64 of a JPEG, PNG or WebP")
    video: str | None = Field(default=None, description="standard base64 of an MP4, WebM or MOV clip")
    deadline_ms: int | None = Field(default=None, ge=1, le=MAX_DEADLINE_MS, description="answer within this time")


class StageInfo(WireModel):
    """A stage as it is deployed, and whether it answers at the moment."""

    stage: str
    model: str
    miniature: bool
    up: bool


class Limits(WireModel):
    """What is refused: bytes of one file, pixels of a photo or frame, seconds and frames of a clip."""

    max_bytes: int
    max_pixels: int
    max_seconds: float
    max_clip_frames: int
    max_batch_files: int
    max_batch_bytes: int
    max_deadline_ms: int
    default_deadline_ms: int


class Info(WireModel):
    """What the server is made of."""

    version: str
    profile: str
    policy: dict[str, Any] = Field(description="the policy in force, whole; its `version` is in every verdict")
    policy_error: str | None = Field(
        default=None, description="why the last policy it was given did not replace this one"
    )
    stages: list[StageInfo]
    in_flight: int = Field(ge=0, description="requests being worked on by the replica that answers")
    limits: Limits


class PolicyRevision(WireModel):
    """Rules that came into force, as the history names them."""

    number: int = Field(ge=1, description="counts every change, rollbacks too")
    version: str = Field(description="of the policy that answers")
    origin: Literal["config", "put", "rollback"]
    by: str = Field(description="name of the key that changed it, or serve_config")
    at: str = Field(description="UTC, ISO 8601")
    restores: int | None = Field(default=None, description="the edition that a rollback brought back")


class PolicyState(WireModel):
    """What is in force, and what was before."""

    number: int = Field(ge=0)
    version: str
    rules: dict[str, Any] = Field(description="the policy, and the split and the shadow where there are any")
    history: list[PolicyRevision] = Field(description="the newest last; the last hundred")


class PolicyChange(WireModel):
    """An edition that has come into force."""

    number: int = Field(ge=1)
    version: str
    replicas: int = Field(ge=0, description="of the ingress that go by it now; any other does within a second")


class StageLoad(WireModel):
    """What one ingress replica has with a stage at the moment."""

    stage: str
    up: bool
    waiting: int = Field(ge=0, description="items")
    in_flight: int = Field(ge=0, description="calls")
    queue_wait_ms: float = Field(ge=0, description="about how long an item would wait for a slot if it came now")
    p90_ms: float | None = Field(
        default=None,
        ge=0,
        description="what nine in ten calls with one item keep within; absent while too few are known",
    )
    breaker: Literal["closed", "open", "half_open"]


class ShadowStats(WireModel):
    """What came of the shadow policy on one ingress replica since it came into force."""

    version: str
    judged: int = Field(ge=0)
    agreed: int = Field(ge=0, description="of those judged, with the same label as the answer")
    abandoned: int = Field(ge=0, description="not judged, for it would have cost others something, or a stage failed")
    mean_difference: float | None = Field(default=None, ge=0, le=1, description="between the two probabilities")


class AuditStats(WireModel):
    """What came of asking everyone on one ingress replica."""

    judged: int = Field(ge=0, description="items that every stage has judged")
    abandoned: int = Field(ge=0, description="not judged by all: too many at once, or a stage was busy or failed")


class JournalLoad(WireModel):
    """What one ingress replica has for the journal. Counts are of records, since the replica began."""

    up: bool = Field(description="the journal took what it was sent last")
    waiting: int = Field(ge=0, description="on disk, not acknowledged yet")
    waiting_bytes: int = Field(ge=0)
    committed: int = Field(ge=0)
    dropped: int = Field(ge=0, description="lost, because the room for those that wait was full")
    without_media: int = Field(ge=0, description="kept without their pictures, because half of the room was full")


class Distribution(WireModel):
    """Of the last thousand values, or as many as there are."""

    n: int = Field(ge=1)
    mean: float
    p50: float
    p95: float


class ExitCount(WireModel):
    """Answers that left at a stage for a reason."""

    stage: str
    reason: ExitReason
    answers: int = Field(ge=0)


class StageStats(WireModel):
    """What a stage did for one ingress replica since that began. Spreads are of the last thousand items."""

    stage: str
    outcomes: dict[Outcome, int] = Field(description="items by what came of asking the stage")
    queue_ms: Distribution | None = None
    preprocess_ms: Distribution | None = None
    compute_ms: Distribution | None = None
    rpc_ms: Distribution | None = None
    batch_size: Distribution | None = None
    tokens: int = Field(ge=0, description="written by a VLM")
    gflops: float = Field(ge=0, description="at the size of the production models, whatever model answered")
    gpu_seconds: float = Field(ge=0, description="of whole cards, while the model computed")


class RequestStats(WireModel):
    """What one ingress replica has answered since it began, and what that took."""

    seconds: float = Field(ge=0, description="since it began")
    answers: int = Field(ge=0)
    photos: int = Field(ge=0)
    clips: int = Field(ge=0)
    roadwork: int = Field(ge=0)
    degraded: int = Field(ge=0)
    late: int = Field(ge=0, description="left before their time because the deadline came")
    refused: dict[str, int] = Field(description="files and requests without a verdict, by the slug of their problem")
    exits: list[ExitCount]
    elapsed_ms: Distribution | None = None
    probability: Distribution | None = None
    gflops: float = Field(ge=0, description="at the size of the production models, whatever model answered")
    gpu_seconds: float = Field(ge=0, description="of whole cards, while models computed")
    cost_per_1000: float | None = Field(
        default=None, ge=0, description="answers, in the currency of ingress.gpu_hour_price; absent without one"
    )
    stages: list[StageStats]


class ReplicaStats(WireModel):
    """The load of one ingress replica."""

    replica: str
    in_flight: int = Field(ge=0, description="requests")
    reading: int = Field(ge=0, description="files that are decoded, or wait to be")
    policy_version: str
    policy_revision: int = Field(ge=0)
    degradation_level: int = Field(ge=0, description="of the policy in force; 0 while it is calm")
    stages: list[StageLoad]
    answered: RequestStats | None = Field(default=None, description="since the replica began")
    shadow: ShadowStats | None = None
    audit: AuditStats | None = None
    journal: JournalLoad | None = None


class Stats(WireModel):
    """The load of every ingress replica that answers, the one that was asked first."""

    replicas: list[ReplicaStats]


class JournalEntry(WireModel):
    """An answer as the journal has it, and what a person said of it."""

    id: str
    at: str = Field(description="when it was given, UTC, ISO 8601")
    verdict: Verdict
    said: Literal["roadwork", "none", "unclear"] | None = Field(
        default=None, description="by a person; absent while nobody has looked"
    )
    kept: bool = Field(description="the file is there to be looked at")
    hardness: float | None = Field(default=None, ge=0, le=1, description="how much there is to learn from it")
    why: dict[str, float] = Field(
        default_factory=dict[str, float], description="what makes it hard: the strength of each reason"
    )


class JournalPage(WireModel):
    """Answers of the journal."""

    answers: list[JournalEntry]


class HumanLabel(WireModel):
    """What a person says of an answer's file."""

    label: Literal["roadwork", "none", "unclear"]
    note: str = Field(default="", max_length=2000)


class ExitPreview(WireModel):
    """Answers that would leave at a stage."""

    stage: str
    now: int = Field(ge=0, description="by the policy in force")
    then: int = Field(ge=0, description="by the one that is previewed")


class PolicyPreview(WireModel):
    """What a policy would have made of the latest answers, from what the stages said of them then.

    Only what was said is known: an answer that would have gone on to a stage which never judged it is `unknown` from
    there on. Load and deadlines are left out.
    """

    version: str
    answers: int = Field(ge=0, description="of the journal, the latest, that both policies were held against")
    exits: list[ExitPreview]
    unknown: int = Field(ge=0, description="would go on to a stage that did not judge them")
    unknown_now: int = Field(ge=0, description="the same by the policy in force: it was another when they were given")
    turned: int = Field(ge=0, description="get the other label, of those that are known by both")
    marked: int = Field(ge=0, description="people have said what they show, of those that are known by both")
    right_now: int = Field(ge=0, description="of those marked, labelled as people do by the policy in force")
    right_then: int = Field(ge=0, description="the same by the one that is previewed")
    gflops_now: float = Field(ge=0, description="an answer that is known by both, at the size of the production models")
    gflops_then: float = Field(ge=0)


class Health(WireModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(WireModel):
    """Requests are accepted. Stages that are down at the moment are skipped, and verdicts say so."""

    ready: Literal[True] = True
    up: list[str]
    down: list[str]
