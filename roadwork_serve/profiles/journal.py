"""What a profile says of the journal."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

_SQLITE = "sqlite:///"


def absolute(url: str) -> str:
    """The URL of a journal with its file, if it is one, seen from here."""
    if not url.startswith(_SQLITE) or url == _SQLITE:
        return url
    return _SQLITE + str(Path(url.removeprefix(_SQLITE)).absolute())


class JournalSpec(BaseModel):
    """What is kept of every answer, and where. Folders are seen from where the server is started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    url: str = Field(
        default="sqlite:///build/journal/journal.db",
        description="SQLite by a path from where the server is started, or postgresql://USER@HOST/DATABASE",
    )
    password_env: str | None = Field(
        default=None, description="environment variable with the database's password, so that no file holds it"
    )
    features: bool = Field(
        default=True, description="keep what stage 1 makes of a picture, for training heads; 2 bytes a number"
    )
    media_folder: str = Field(default="build/journal/media", description="where encoded files go")
    media_cap_gib: float = Field(
        default=0.0, ge=0, description="room for encoded files, GiB: beyond it the least useful go; 0 keeps none"
    )
    spool_folder: str = Field(
        default="build/journal/spool", description="of each ingress: what the journal has not acknowledged yet"
    )
    spool_mib: int = Field(
        default=256,
        ge=1,
        description="room for that, MiB, a replica of the ingress; what comes beyond it is counted and lost",
    )
    num_cpus: float = Field(default=0.1, ge=0)
