"""Wire models that hold a whole policy: the answers of /v1/info and GET /v1/policy."""

from pydantic import Field

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.schema import Limits, PolicyRevision, StageInfo, TaskInfo
from roadwork_serve.schema.base import WireModel


class Info(WireModel):
    """A description of the server."""

    version: str = Field(description="Version of roadwork-serve.")
    profile: str = Field(description="Name of the profile.")
    task: TaskInfo = Field(description="The task: what the labels stand for.")
    policy: Policy = Field(description="The active policy; its `version` is in every verdict.")
    policy_error: str | None = Field(
        default=None, description="Why the latest policy of the configuration was rejected. Absent if it was accepted."
    )
    stages: list[StageInfo] = Field(description="The deployed stages.")
    in_flight: int = Field(ge=0, description="Requests in flight on the replica that answers.")
    limits: Limits = Field(description="The limits of requests.")


class PolicyState(WireModel):
    """The active policy and its history."""

    revision: int = Field(ge=0, description="Number of the active revision; 0 before the first.")
    version: str = Field(description="Version of the active policy.")
    rollout: Rollout = Field(description="The active policy, with its split, shadow and audit if there are any.")
    history: list[PolicyRevision] = Field(description="The last hundred revisions, the newest last.")
