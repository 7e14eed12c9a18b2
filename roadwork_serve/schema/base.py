"""The base class of the wire models, and types that several of them use."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Label = Literal["roadwork", "none"]
ReviewLabel = Literal["roadwork", "none", "unclear"]
MediaKind = Literal["photo", "clip"]
ExitReason = Literal[
    "above_band",  # the posterior is above the stage's exit band: roadwork
    "below_band",  # the posterior is below it: none
    "last_stage",  # the posterior is inside the band, and no stage is left
    "deadline",  # the time left is too short for the next stage
    "failed",  # later stages were needed and failed
]
Outcome = Literal["answered", "abstained", "failed", "skipped"]

MAX_DEADLINE_MS = 600_000


class WireModel(BaseModel):
    """The base of every wire model: immutable, and strict about unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
