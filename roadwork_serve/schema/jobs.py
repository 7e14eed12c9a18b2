"""Wire models of jobs."""

from typing import Literal

from pydantic import Field

from roadwork_serve.schema.base import Label, WireModel
from roadwork_serve.schema.verdict import Problem, Verdict

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]


class JobWindow(WireModel):
    """The result for a part of a job's clip: a verdict or a problem, never both."""

    start_s: float = Field(ge=0, description="Start of the part in seconds from the start of the clip.")
    end_s: float = Field(ge=0, description="End of the part.")
    verdict: Verdict | None = Field(default=None, description="The verdict, if there is one.")
    problem: Problem | None = Field(default=None, description="The problem, if there is no verdict.")


class JobSummary(WireModel):
    """A job: its state, and the highest of its verdicts so far."""

    id: str = Field(description="Id of the job.")
    state: JobState = Field(description="State of the job: waiting, running, done, failed or cancelled.")
    created_at: str = Field(description="Time at which the file was complete, UTC, ISO 8601.")
    ended_at: str | None = Field(default=None, description="Time at which the job ended. Absent until then.")
    filename: str = Field(default="", description="Name of the file as the client sent it; empty if it sent none.")
    size: int = Field(ge=0, description="Bytes of the file.")
    completed: int = Field(ge=0, description="Number of parts of the clip that have a verdict or a problem.")
    completed_s: float = Field(ge=0, description="End of the last of them in seconds from the start of the clip.")
    label: Label | None = Field(
        default=None, description="Label of the verdict with the highest probability. Absent while there is none."
    )
    positive: bool | None = Field(default=None, description="True if that label is the positive one of the task.")
    probability: float | None = Field(default=None, ge=0, le=1, description="The highest probability of a verdict.")
    highest_start_s: float | None = Field(
        default=None, ge=0, description="Start of the part with that verdict, in seconds from the start of the clip."
    )
    problem: Problem | None = Field(default=None, description="Why the job failed. Absent unless it did.")


class Job(JobSummary):
    """A job with the result for each part of its clip."""

    windows: list[JobWindow] = Field(description="The results, in order of time.")


class JobPage(WireModel):
    """A list of jobs."""

    jobs: list[JobSummary] = Field(description="The jobs, the newest first.")
