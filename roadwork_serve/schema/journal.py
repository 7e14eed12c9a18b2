"""Wire models of the journal."""

from pydantic import Field

from roadwork_serve.schema.base import ReviewLabel, WireModel
from roadwork_serve.schema.verdict import Verdict


class JournalEntry(WireModel):
    """A verdict as the journal recorded it, with its human label."""

    id: str = Field(description="Id of the verdict: its `answer_id`.")
    created_at: str = Field(description="Time of the verdict, UTC, ISO 8601.")
    filename: str = Field(default="", description="Name of the file as the client sent it; empty if it sent none.")
    verdict: Verdict = Field(description="The recorded verdict.")
    human_label: ReviewLabel | None = Field(
        default=None, description="Label that a person assigned. Absent if nobody has reviewed the file."
    )
    media_available: bool = Field(description="True if the file is stored and can be downloaded.")
    informativeness: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Expected value of a human label for training (active learning). Present only when entries are "
        "sorted by it.",
    )
    reasons: dict[str, float] = Field(
        default_factory=dict[str, float], description="Score of each criterion that makes the entry informative."
    )


class JournalPage(WireModel):
    """A list of journal entries."""

    entries: list[JournalEntry] = Field(description="The entries, in the requested order.")
    next_cursor: str | None = Field(
        default=None,
        description="The `cursor` of the next page. Absent at the end of the journal. A page searches a bounded number "
        "of entries, so that one with few entries, or none, may have a next page.",
    )


class HumanLabel(WireModel):
    """A label that a person assigns to the file of a verdict."""

    label: ReviewLabel = Field(
        description="What the file shows: a label of the server's task (roadwork or none by default), or unclear.",
        examples=["roadwork", "none", "unclear"],
    )
    note: str = Field(default="", max_length=2000, description="Free text, stored with the label.")
