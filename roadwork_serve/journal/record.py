"""The records of the journal: a prediction, results that follow it, and a person's annotation."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.schema import Label, StageReport, Verdict

Origin = Literal["http", "batch", "handle"]


@dataclass(frozen=True, slots=True, eq=False)
class PredictionRecord:
    """One prediction. The journal holds it once, however often it is sent.

    Plain fields (text, numbers, None) have a column of the same name in `tables.predictions`.
    """

    #: Unique for each prediction; two predictions for one request have two ids.
    id: str
    #: Seconds since 1970, UTC.
    created_at_s: float
    verdict: Verdict
    #: The entrance that the request came through.
    origin: Origin
    #: Name of the API key; empty without one.
    caller: str
    #: Client's name for items that belong together, such as a camera or a trip; empty if it sent none.
    key: str
    #: Revision of the policy in force.
    policy_revision: int
    #: Digest of the encoded file, in hex.
    sha256: str
    #: Bytes of the encoded file.
    size: int
    #: The encoded file, if the journal is to store it.
    media: bytes | None = None
    #: Backbone features of each photo or frame, float16 [frames, width]; None if stage 1 returned none.
    features: NDArray[np.float16] | None = None
    #: The backbone that the features come from.
    features_model: str = ""
    #: Name of the file as the client sent it, printable; empty if it sent none.
    filename: str = ""
    #: Probability with which the item was drawn for an audit by every stage; None if it was not drawn.
    audit_rate: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DeferredResult:
    """A result that arrives after its prediction. A prediction has at most one of each kind and policy version."""

    #: Id of the prediction.
    prediction_id: str
    #: Seconds since 1970, UTC.
    created_at_s: float
    kind: Literal["audit", "shadow"]
    #: For an audit: reports of the stages that the prediction itself did not need.
    stages: tuple[StageReport, ...] = ()
    #: For a shadow policy: its verdict.
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """A person's label for an item."""

    #: None if the person could not decide.
    label: Label | None
    #: Name of the person or the tool.
    author: str
    #: Seconds since 1970, UTC.
    created_at_s: float
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class JournalRow:
    """A prediction as read from the journal, with everything that belongs to it."""

    #: Without its media.
    prediction: PredictionRecord
    #: Reports of the stages that an audit ran; None without an audit, empty if the prediction had used every stage.
    audit: tuple[StageReport, ...] | None = None
    #: Verdicts of shadow policies.
    shadows: tuple[Verdict, ...] = ()
    #: The latest annotation.
    annotation: Annotation | None = None
    #: The encoded file is still stored.
    media_available: bool = False

    @property
    def human_positive(self) -> bool | None:
        """True if a person assigned the positive label; None without an annotation, or if the person was unsure."""
        label = None if self.annotation is None else self.annotation.label
        verdict = self.prediction.verdict
        return None if label is None else (label == verdict.label) == verdict.positive

    def report(self, stage: str) -> StageReport | None:
        """Return a stage's report, from the prediction or an audit; None if the stage did not run or failed."""
        for report in (*self.prediction.verdict.stages, *(self.audit or ())):
            if report.stage == stage and report.outcome in ("answered", "abstained"):
                return report
        return None
