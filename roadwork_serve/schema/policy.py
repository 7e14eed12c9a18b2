"""Wire models of policy changes and of policy previews."""

from typing import Literal

from pydantic import Field

from roadwork_serve.schema.base import Label, MediaKind, ReviewLabel, WireModel

MAX_FLIPPED = 24  # entries that a preview lists


class PolicyRevision(WireModel):
    """An entry of the policy history."""

    revision: int = Field(ge=1, description="Number of the revision. Every change counts, rollbacks included.")
    version: str = Field(description="Version of the policy that answers.")
    origin: Literal["config", "put", "rollback"] = Field(description="What created the revision.")
    author: str = Field(description="Name of the API key that made the change, or serve_config.")
    created_at: str = Field(description="Time of the change, UTC, ISO 8601.")
    rollback_of: int | None = Field(
        default=None, description="Number of the revision that a rollback restored. Absent for other changes."
    )


class PolicyChange(WireModel):
    """The result of a policy change."""

    revision: int = Field(ge=1, description="Number of the active revision.")
    version: str = Field(description="Version of the active policy.")
    replicas: int = Field(
        ge=0,
        description="Number of ingress replicas that use the revision already. The others follow within a second.",
    )


class ExitPreview(WireModel):
    """Number of journal entries that exit at a stage under the current and the proposed policy."""

    stage: str = Field(description="Name of the stage.")
    current: int = Field(ge=0, description="Exits under the current policy.")
    proposed: int = Field(ge=0, description="Exits under the proposed policy.")


class FlippedEntry(WireModel):
    """A journal entry whose label differs between the current and the proposed policy."""

    id: str = Field(description="Id of the entry.")
    filename: str = Field(description="Name of the file as the client sent it; empty if it sent none.")
    media: MediaKind = Field(description="Kind of media: photo or clip.")
    media_available: bool = Field(description="True if the file is stored.")
    proposed: Label = Field(description="Label under the proposed policy; the current policy gives the other one.")
    human_label: ReviewLabel | None = Field(default=None, description="Label that a person assigned, if any did.")


class PolicyPreview(WireModel):
    """A proposed policy replayed on the latest journal entries, compared with the current policy.

    The replay uses the recorded predictions. An entry is unknown to a policy that needs a stage which has no recorded
    prediction for it. Load and deadlines are ignored.
    """

    version: str = Field(description="Version of the proposed policy.")
    entries: int = Field(ge=0, description="Number of journal entries replayed.")
    exits: list[ExitPreview] = Field(description="Exits by stage under both policies.")
    unknown_proposed: int = Field(ge=0, description="Entries whose exit under the proposed policy is unknown.")
    unknown_current: int = Field(
        ge=0,
        description="Entries whose exit under the current policy is unknown, because another policy was active then.",
    )
    flipped: int = Field(ge=0, description="Entries known to both policies whose label differs between them.")
    flipped_entries: list[FlippedEntry] = Field(
        default_factory=list[FlippedEntry], max_length=MAX_FLIPPED, description="The latest of them."
    )
    labeled: int = Field(ge=0, description="Entries known to both policies that have a human label.")
    correct_current: int = Field(ge=0, description="Labeled entries for which the current policy is correct.")
    correct_proposed: int = Field(ge=0, description="Labeled entries for which the proposed policy is correct.")
    gflops_current: float = Field(
        ge=0,
        description="Mean GFLOP of an entry known to both policies, under the current policy, at the size of the "
        "production models.",
    )
    gflops_proposed: float = Field(ge=0, description="The same mean under the proposed policy.")
