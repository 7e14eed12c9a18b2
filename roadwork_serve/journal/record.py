"""What the journal keeps of a request: the answer, what was said beside it, and what people said of it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.schema import Label, StageReport, Verdict

Origin = Literal["http", "batch", "handle"]


@dataclass(frozen=True, slots=True, eq=False)
class PredictionRecord:
    """One answer. It is in the journal once, however often it is sent there.

    id: names this answer among all; two answers to one request id are two.
    at_s: when it was given, seconds since 1970, UTC.
    caller: name of the API key, empty without one. key: what the client says belongs together, such as a camera or a
        trip; empty where it says nothing.
    policy_number: of the edition in force. sha256: of the encoded file, hex. size: of it, bytes.
    media: the encoded file, where it is to be kept.
    features: what stage 1 made of each photo or frame before its head, float16 [frames, width]; None where it did not.
    features_model: the backbone they are of.
    survey: the chance with which the item was drawn to be shown to every stage; None when it was not drawn.
    """

    id: str
    at_s: float
    verdict: Verdict
    origin: Origin
    caller: str
    key: str
    policy_revision: int
    sha256: str
    size: int
    media: bytes | None = None
    features: NDArray[np.float16] | None = None
    features_model: str = ""
    audit: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DeferredResult:
    """What was said of an item after its answer had been given. An answer has at most one of each kind and version.

    of: id of the answer. stages: of a survey, the reports of the stages that had not been asked for the answer.
    verdict: of a shadow, what it would have answered.
    """

    of: str
    at_s: float
    kind: Literal["audit", "shadow"]
    stages: tuple[StageReport, ...] = ()
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a person said of an item. label: None where they could not tell."""

    label: Label | None
    by: str
    at_s: float
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class JournalRow:
    """An answer as the journal gives it back.

    entry: without its media. survey: reports of the stages that were asked beside; None when none was made, empty when
    the answer itself had asked them all. kept: the encoded file is still there.
    """

    entry: PredictionRecord
    audit: tuple[StageReport, ...] | None = None
    shadows: tuple[Verdict, ...] = ()
    mark: Annotation | None = None
    kept: bool = False

    def report(self, stage: str) -> StageReport | None:
        """What the stage said of it, for the answer or beside it; None where it was not asked or failed."""
        for report in (*self.entry.verdict.stages, *(self.audit or ())):
            if report.stage == stage and report.outcome in ("answered", "abstained"):
                return report
        return None
