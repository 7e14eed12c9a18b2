"""Wire models of load, request statistics, health and limits."""

from typing import Literal

from pydantic import Field

from roadwork_serve.schema.base import ExitReason, Label, Outcome, WireModel


class StageLoad(WireModel):
    """The current load of one stage, as one ingress replica sees it."""

    stage: str = Field(description="Name of the stage.")
    up: bool = Field(description="True if the stage answered its last probe.")
    queued: int = Field(ge=0, description="Number of items in the queue.")
    in_flight: int = Field(ge=0, description="Number of calls in flight.")
    queue_wait_ms: float = Field(ge=0, description="Estimated queueing delay of a new item, in milliseconds.")
    p90_ms: float | None = Field(
        default=None,
        ge=0,
        description="90th percentile of the latency of calls with one item, in milliseconds. Absent while there are "
        "too few measurements.",
    )
    breaker: Literal["closed", "open", "half_open"] = Field(description="State of the stage's circuit breaker.")


class ShadowStats(WireModel):
    """Comparison of the shadow policy with the active one, on one ingress replica, since the shadow became active."""

    version: str = Field(description="Version of the shadow policy.")
    compared: int = Field(ge=0, description="Number of verdicts compared.")
    agreed: int = Field(ge=0, description="Number of compared verdicts with the same label.")
    abandoned: int = Field(
        ge=0, description="Number of items not compared, because live traffic needed the stage or the stage failed."
    )
    mean_difference: float | None = Field(
        default=None, ge=0, le=1, description="Mean absolute difference of the two probabilities."
    )


class AuditStats(WireModel):
    """Results of the full-cascade audit on one ingress replica."""

    completed: int = Field(ge=0, description="Number of items on which every stage ran.")
    abandoned: int = Field(
        ge=0, description="Number of items not completed: too many at once, or a stage was busy or failed."
    )


class JournalLoad(WireModel):
    """The journal's outbox on one ingress replica. Counts start with the replica, except for `dropped`."""

    up: bool = Field(description="True if the last records could be written, to the spool and to the journal.")
    error: str | None = Field(
        default=None, description="Why they could not be written, with the path. Absent while the journal is up."
    )
    error_code: str | None = Field(
        default=None,
        description="Name of that error, if the operating system has one, such as ENOSPC for a full disk.",
    )
    pending: int = Field(ge=0, description="Records on disk that the journal has not acknowledged yet.")
    pending_bytes: int = Field(ge=0, description="Size of the pending records in bytes.")
    committed: int = Field(ge=0, description="Records that the journal has acknowledged.")
    dropped: int = Field(
        ge=0,
        description="Records lost because the spool or its disk was full, or because somebody removed the spool. The "
        "count continues after a restart.",
    )
    without_media: int = Field(
        ge=0,
        description="Records stored without their file, because the spool was half full, or its disk nearly so.",
    )


class Distribution(WireModel):
    """Summary of the last thousand values, or of all if there are fewer."""

    n: int = Field(ge=1, description="Number of values.")
    mean: float = Field(description="Arithmetic mean.")
    p50: float = Field(description="Median.")
    p95: float = Field(description="95th percentile.")


class ExitCount(WireModel):
    """Number of verdicts that exited at a stage for a reason."""

    stage: str = Field(description="Name of the stage.")
    reason: ExitReason = Field(description="Reason of the exit.")
    verdicts: int = Field(ge=0, description="Number of verdicts.")


class StageStats(WireModel):
    """Statistics of one stage on one ingress replica since it started. Distributions cover the last thousand items."""

    stage: str = Field(description="Name of the stage.")
    outcomes: dict[Outcome, int] = Field(description="Number of items by outcome.")
    queue_ms: Distribution | None = Field(default=None, description="Queueing delay in milliseconds.")
    preprocess_ms: Distribution | None = Field(default=None, description="Preprocessing time in milliseconds.")
    compute_ms: Distribution | None = Field(default=None, description="Inference time in milliseconds.")
    rpc_ms: Distribution | None = Field(default=None, description="Transport time in milliseconds.")
    batch_size: Distribution | None = Field(default=None, description="Items in a batch.")
    tokens: int = Field(ge=0, description="Tokens that a vision-language model generated.")
    gflops: float = Field(
        ge=0, description="GFLOP of the engine. A miniature counts as the production model it replaces."
    )
    gpu_seconds: float = Field(ge=0, description="GPU-seconds of inference; a share of a GPU counts as that share.")


class RequestStats(WireModel):
    """Request statistics of one ingress replica since it started."""

    uptime_s: float = Field(ge=0, description="Seconds since the replica started.")
    verdicts: int = Field(ge=0, description="Number of verdicts.")
    photos: int = Field(ge=0, description="Number of verdicts on photos.")
    clips: int = Field(ge=0, description="Number of verdicts on clips.")
    roadwork: int = Field(ge=0, description="Number of verdicts with the positive label, such as roadwork.")
    degraded: int = Field(ge=0, description="Number of verdicts that lack a stage which failed or was unavailable.")
    deadline_exits: int = Field(ge=0, description="Number of verdicts that exited early because of the deadline.")
    rejected: dict[str, int] = Field(
        description="Number of files and requests without a verdict, by the slug of the problem."
    )
    exits: list[ExitCount] = Field(description="Number of verdicts by exit stage and reason.")
    elapsed_ms: Distribution | None = Field(default=None, description="Latency of verdicts in milliseconds.")
    probability: Distribution | None = Field(default=None, description="Probability of verdicts.")
    gflops: float = Field(
        ge=0, description="GFLOP of the engines. A miniature counts as the production model it replaces."
    )
    gpu_seconds: float = Field(ge=0, description="GPU-seconds of inference; a share of a GPU counts as that share.")
    cost_per_1000: float | None = Field(
        default=None,
        ge=0,
        description="GPU cost of 1,000 verdicts, in the currency of ingress.gpu_hour_price. Absent without a price.",
    )
    stages: list[StageStats] = Field(description="Statistics of each stage.")


class ReplicaStats(WireModel):
    """Load and statistics of one ingress replica."""

    replica: str = Field(description="Id of the replica.")
    in_flight: int = Field(ge=0, description="Number of requests in flight.")
    decoding: int = Field(ge=0, description="Number of files being decoded or waiting for it.")
    policy_version: str = Field(description="Version of the active policy.")
    policy_revision: int = Field(ge=0, description="Revision of the active policy; 0 before the first.")
    degradation_level: int = Field(ge=0, description="Current level of load shedding; 0 is none.")
    stages: list[StageLoad] = Field(description="Load of each stage.")
    requests: RequestStats | None = Field(default=None, description="Request statistics since the replica started.")
    shadow: ShadowStats | None = Field(default=None, description="Shadow statistics. Absent without a shadow policy.")
    audit: AuditStats | None = Field(default=None, description="Audit statistics. Absent without an audit.")
    journal: JournalLoad | None = Field(default=None, description="State of the journal's outbox. Absent without one.")


class Stats(WireModel):
    """Statistics of all ingress replicas."""

    replicas: list[ReplicaStats] = Field(
        description="Every replica that answered in time, beginning with the one that got the request."
    )


class TaskInfo(WireModel):
    """The task of the server: what its labels stand for."""

    positive: Label = Field(description="Label if the answer is yes.", examples=["roadwork"])
    negative: Label = Field(description="Label if the answer is no.", examples=["none"])
    description: str = Field(description="What the positive label stands for.", examples=["active road work"])
    question: str = Field(description="The question that vision language models are asked about a photo.")


class StageInfo(WireModel):
    """A deployed stage and its availability."""

    stage: str = Field(description="Name of the stage.")
    model: str = Field(description="Name of the model.")
    miniature: bool = Field(description="True if the model is a small stand-in for the production model.")
    up: bool = Field(description="True if the stage answered its last probe.")


class Limits(WireModel):
    """The limits of requests. Anything larger is rejected."""

    max_bytes: int = Field(description="Bytes of one file.")
    max_pixels: int = Field(description="Pixels of a photo or of a clip's frame.")
    max_seconds: float = Field(description="Duration of a clip in seconds.")
    max_clip_frames: int = Field(description="Number of frames of a clip.")
    max_batch_files: int = Field(description="Number of files in a batch.")
    max_batch_bytes: int = Field(description="Bytes of all files of a batch.")
    max_deadline_ms: int = Field(description="Longest deadline in milliseconds.")
    default_deadline_ms: int = Field(description="Deadline in milliseconds of a request that sets none.")


class Health(WireModel):
    """The process is alive."""

    status: Literal["ok"] = Field(default="ok", description="Always ok.")


class Readiness(WireModel):
    """The server accepts requests. Stages that are down are skipped, and verdicts report it."""

    ready: Literal[True] = Field(default=True, description="Always true; the server answers 503 otherwise.")
    up: list[str] = Field(description="Stages that answer.")
    down: list[str] = Field(description="Stages that do not answer.")
    notes: dict[str, str] = Field(
        default_factory=dict, description="Stages that are not required because they cannot run yet, with the reason."
    )
    journal_error: str | None = Field(
        default=None, description="Why verdicts cannot be written to the journal. Absent while they can."
    )
