"""Wire models of classification: the request, the verdict and the problem."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from roadwork_serve.schema.base import MAX_DEADLINE_MS, ExitReason, Label, MediaKind, Outcome, WireModel


class Box(WireModel):
    """A rectangle in fractions of the image's width and height; the origin is the top left corner."""

    x0: float = Field(ge=0, le=1, description="Left edge.")
    y0: float = Field(ge=0, le=1, description="Top edge.")
    x1: float = Field(ge=0, le=1, description="Right edge.")
    y1: float = Field(ge=0, le=1, description="Bottom edge.")


class Region(WireModel):
    """A part of the image with evidence for the positive label."""

    kind: str = Field(description="Class of the evidence: cone (drums and barriers too), machine, worker or sign.")
    probability: float = Field(ge=0, le=1, description="Highest probability of the class within the region.")
    box: Box = Field(description="Position of the region in the image; its edges are those of the grid's cells.")
    frame: int = Field(default=0, ge=0, description="Index of the clip's frame; 0 for a photo.")


class TextLine(WireModel):
    """One line of text that OCR found in the image."""

    text: str = Field(description="The recognised text.")
    confidence: float = Field(ge=0, le=1, description="Confidence of the OCR engine.")
    meaning: str | None = Field(
        default=None,
        description="Meaning of the text for road work: begin, closure, detour, worker, end or neutral.",
    )
    box: Box = Field(description="Position of the line in the image.")
    frame: int = Field(default=0, ge=0, description="Index of the clip's frame; 0 for a photo.")


class Evidence(WireModel):
    """Details that explain a stage's prediction."""

    text_lines: list[TextLine] = Field(default_factory=list[TextLine], description="Text that OCR found.")
    reasoning: str | None = Field(default=None, description="Text that a reasoning model generated before its answer.")
    other_token_mass: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Probability mass that a vision-language model gave to tokens other than yes and no.",
    )
    from_choice: bool = Field(
        default=False,
        description="True if the model server returned only the chosen answer and no token probabilities, so that the "
        "probability is coarse.",
    )
    text_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Stage 1's estimate of the probability that the image contains text worth reading.",
    )
    frame_probabilities: list[float] = Field(
        default_factory=list[float], description="Probability for each sampled frame of a clip."
    )
    regions: list[Region] = Field(
        default_factory=list[Region],
        max_length=8,
        description="Parts of the photo in which stage 1 found evidence of road work, the most probable first.",
    )
    heat_map: list[list[int]] = Field(
        default_factory=list[list[int]],
        max_length=16,
        description="Evidence of road work in each cell of a coarse grid over the photo, row by row, in percent.",
    )


class StageReport(WireModel):
    """The prediction of one stage for one item, and its measured cost."""

    stage: str = Field(description="Name of the stage.")
    outcome: Outcome = Field(description="Result of the call: answered, abstained, failed or skipped.")
    model: str | None = Field(default=None, description="Name of the model that made the prediction.")
    head: str | None = Field(default=None, description="Name of the head that the policy selects for stage 1.")
    miniature: bool = Field(
        default=False, description="True if a small stand-in for the production model made the prediction."
    )
    probability: float | None = Field(default=None, ge=0, le=1, description="Uncalibrated probability of the stage.")
    second_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Probability of a second head under evaluation. It does not affect the verdict.",
    )
    posterior: float | None = Field(
        default=None, ge=0, le=1, description="Posterior probability of the cascade after this stage."
    )
    detail: str | None = Field(default=None, description="Reason why the stage abstained, failed or was skipped.")
    queue_ms: float = Field(default=0, ge=0, description="Milliseconds in the stage's queue.")
    preprocess_ms: float = Field(
        default=0, ge=0, description="Milliseconds of preprocessing in the stage, for the whole batch."
    )
    compute_ms: float = Field(default=0, ge=0, description="Milliseconds of model inference, for the whole batch.")
    rpc_ms: float = Field(default=0, ge=0, description="Milliseconds of transport to the stage and back.")
    batch_size: int = Field(default=0, ge=0, description="Number of items in the batch; 0 if the stage did not run.")
    tokens: int = Field(default=0, ge=0, description="Number of tokens that a vision-language model generated.")
    evidence: Evidence = Field(default_factory=Evidence, description="Details that explain the prediction.")


class Exit(WireModel):
    """Exit of the item from the cascade: stage and reason."""

    stage: str = Field(description="Last stage that contributed to the verdict.")
    reason: ExitReason = Field(description="Reason for leaving the cascade at this stage.")


class Verdict(WireModel):
    """The result for one photo or clip: label, probability, and the report of each stage."""

    answer_id: str = Field(default="", description="Unique id of this verdict; the journal uses the same id.")
    request_id: str = Field(description="Id of the request: the client's X-Request-Id, or a generated one.")
    media: MediaKind = Field(description="Kind of media: photo or clip.")
    label: Label = Field(
        description="Predicted label, by the server's task: roadwork or none, unless its profile sets another task.",
        examples=["roadwork", "none"],
    )
    positive: bool = Field(
        description="True if the label is the positive one of the task, such as roadwork: the probability reaches the "
        "decision threshold."
    )
    probability: float = Field(
        ge=0, le=1, description="Posterior probability of the positive label, such as active road work."
    )
    exit: Exit = Field(description="Exit of the item from the cascade: stage and reason.")
    degraded: bool = Field(default=False, description="True if a stage that was needed failed or was unavailable.")
    incomplete: bool = Field(
        default=False,
        description="True if the clip is truncated or damaged, as after a power failure: the verdict is on the part "
        "that could be read.",
    )
    stages: list[StageReport] = Field(description="Reports of the stages, in the order in which they ran.")
    policy_version: str = Field(description="Version of the policy that produced the verdict.")
    degradation_level: int = Field(
        default=0,
        ge=0,
        description="Level of load shedding: each level narrows the policy's exit bands further; 0 is none.",
    )
    arm: Literal["a", "b"] | None = Field(
        default=None,
        description="Arm of an A/B test: a is the active policy, b the candidate. Absent without a test.",
    )
    shadow: str | None = Field(
        default=None,
        description="Version of the shadow policy that evaluates this item after the response. Absent without one.",
    )
    audit_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Sampling rate of the full-cascade audit, if this item was sampled: all stages run on it after "
        "the response.",
    )
    profile: str = Field(description="Name of the server's profile.")
    elapsed_ms: float = Field(ge=0, description="Milliseconds from the decoded file to the verdict.")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Set `positive` in a verdict that was recorded before there was any task but road work."""
        if isinstance(value, Mapping) and "positive" not in value and "label" in value:
            recorded = cast("Mapping[str, Any]", value)
            return {**recorded, "positive": recorded["label"] == "roadwork"}
        return cast("Any", value)


class Problem(WireModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="URN that identifies the kind of problem; it is stable.")
    title: str = Field(description="Short summary of the kind of problem.")
    status: int = Field(ge=400, le=599, description="HTTP status code.")
    detail: str = Field(description="What went wrong in this case, and how to fix it.")
    instance: str | None = Field(default=None, description="Id of the request.")


class BatchEntry(WireModel):
    """The result for one file of a batch: a verdict or a problem, never both."""

    filename: str = Field(description="Name of the file as it was sent, or its position if it had none.")
    verdict: Verdict | None = Field(default=None, description="The verdict, if there is one.")
    problem: Problem | None = Field(default=None, description="The problem, if there is no verdict.")


class BatchResult(WireModel):
    """The results of a batch, in the order of the files."""

    results: list[BatchEntry] = Field(description="One entry for each file.")


class ClassifyRequest(WireModel):
    """The JSON form of a classification request."""

    image: str | None = Field(default=None, description="A photo of an accepted format in standard base64.")
    video: str | None = Field(default=None, description="A clip of an accepted format in standard base64.")
    deadline_ms: int | None = Field(
        default=None, ge=1, le=MAX_DEADLINE_MS, description="Deadline of the response in milliseconds."
    )
