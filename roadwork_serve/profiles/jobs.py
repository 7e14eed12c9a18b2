"""Settings of jobs: files that are too long for a request."""

from pydantic import BaseModel, ConfigDict, Field

from roadwork_serve.profiles.journal import resolve_path
from roadwork_serve.state_folder import VARIABLE


class JobSpec(BaseModel):
    """Settings of jobs, which judge clips that are too long for a request.

    A path may begin with `$ROADWORK_STATE`, the state folder. Ingress replicas that share the folder share the jobs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="Accept jobs.")
    folder: str = Field(
        default=f"${VARIABLE}/jobs",
        description="Folder for the files and the database of the jobs. Ingress replicas on several machines need a "
        "folder that all of them see, or find only the jobs of their own machine.",
    )
    max_bytes: int = Field(default=2 * 2**30, gt=0, description="Largest file of a job in bytes.")
    max_total_bytes: int = Field(
        default=8 * 2**30,
        gt=0,
        description="Space for the files of all jobs in bytes. Further jobs are rejected. A file is deleted when its "
        "job ends.",
    )
    max_seconds: float = Field(default=4 * 3600.0, gt=0, description="Longest clip of a job in seconds.")
    max_waiting: int = Field(
        default=32, ge=1, description="Largest number of jobs that have not ended. Further jobs are rejected."
    )
    max_waiting_per_caller: int = Field(
        default=16, ge=1, description="The same for one API key, or for all callers without one together."
    )
    max_upload_s: float = Field(
        default=3600.0, gt=0, description="Longest time in which the file of a job may arrive, in seconds."
    )
    keep_hours: float = Field(default=72.0, gt=0, description="Hours after which the result of a job is deleted.")

    def resolved(self) -> "JobSpec":
        """Return the settings with an absolute path: replicas may start in another directory."""
        return self.model_copy(update={"folder": resolve_path(self.folder)})
