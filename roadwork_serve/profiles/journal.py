"""Journal settings of a profile."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

_SQLITE = "sqlite:///"


def absolute(url: str) -> str:
    """Return a journal's URL with the path of an SQLite file made absolute."""
    if not url.startswith(_SQLITE) or url == _SQLITE:
        return url
    return _SQLITE + str(Path(url.removeprefix(_SQLITE)).absolute())


class JournalSpec(BaseModel):
    """Settings of the journal of verdicts. Relative folders start where the server is started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="Record every verdict.")
    url: str = Field(
        default="sqlite:///build/journal/journal.db",
        description="Database URL: sqlite:/// with a path, or postgresql://USER@HOST/DATABASE.",
    )
    password_env: str | None = Field(
        default=None,
        description="Name of the environment variable with the database's password, so that no file holds it.",
    )
    features: bool = Field(
        default=True, description="Store the features of stage 1, for training heads. They take 2 bytes a number."
    )
    media_folder: str = Field(default="build/journal/media", description="Folder for the media files.")
    max_media_gib: float = Field(
        default=0.0,
        ge=0,
        description="Space for media files in GiB. When it is full, the least informative are deleted. 0 stores none.",
    )
    spool_folder: str = Field(
        default="build/journal/spool", description="Folder for records that the journal has not yet acknowledged."
    )
    max_spool_mib: int = Field(
        default=256,
        ge=1,
        description="Space for those records in MiB in each ingress replica. Further records are dropped and counted.",
    )
    num_cpus: float = Field(default=0.1, ge=0, description="Logical CPUs Ray reserves for the journal.")
