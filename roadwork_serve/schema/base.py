"""The base class of the wire models, and types that several of them use."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

#: A label of the server's task: `roadwork` or `none`, unless its profile sets another task.
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,15}$")]
#: A label of a person: one of the task, or `unclear`.
ReviewLabel = Label
UNCLEAR = "unclear"
MediaKind = Literal["photo", "clip"]
ExitReason = Literal[
    "above_band",  # the posterior is above the stage's exit band: the positive label
    "below_band",  # the posterior is below it: the negative label
    "last_stage",  # the posterior is inside the band, and no stage is left
    "deadline",  # the time left is too short for the next stage
    "failed",  # later stages were needed and failed
]
Outcome = Literal["answered", "abstained", "failed", "skipped"]

MAX_DEADLINE_MS = 600_000


class WireModel(BaseModel):
    """The base of every wire model: immutable, and strict about unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
