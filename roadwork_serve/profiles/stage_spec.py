"""The part of a profile that describes a stage: the engine it uses, and its queue."""

from typing import Any

from pydantic import Field

from roadwork_serve.profiles.settings import Settings
from roadwork_serve.profiles.task import Task, default_task


class StageSpec(Settings):
    """One stage: the engine it uses, and how."""

    engine: str = Field(description="Name of an entry of `engines`.")
    max_batch: int = Field(default=8, ge=1, description="Largest number of items in one call.")
    slots: int = Field(default=1, ge=1, description="Largest number of concurrent calls to one replica.")
    max_queue: int = Field(default=256, ge=1, description="Largest number of items queued in one ingress replica.")
    timeout_s: float = Field(default=30.0, gt=0, description="A call that takes longer, in seconds, counts as failed.")
    required: bool = Field(
        default=True,
        description="Accept no request before this stage is ready. Other stages join once they are ready.",
    )
    note: str | None = Field(
        default=None, description="Why the stage is not required, shown on /readyz. Set by the server."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of this stage's own code, e.g. thinking."
    )
    task: Task = Field(
        default_factory=default_task, description="The task that the stage works on. Set from the profile's `task`."
    )
