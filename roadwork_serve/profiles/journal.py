"""Journal settings of a profile."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from roadwork_serve.state_folder import VARIABLE, state_folder

_SQLITE = "sqlite:///"
_STATE = f"${VARIABLE}"  # at the beginning of a path
DEFAULT_URL = f"{_SQLITE}{_STATE}/journal/journal.db"


def resolve_path(path: str) -> str:
    """Return an absolute path; `$ROADWORK_STATE` at its beginning stands for the state folder."""
    first, *rest = Path(path).parts or ("",)
    return str(state_folder().joinpath(*rest) if first == _STATE else Path(path).absolute())


def resolve_url(url: str) -> str:
    """Return a journal's URL with the path of an SQLite file resolved, see `resolve_path`."""
    file = sqlite_file(url)
    return url if file is None else _SQLITE + resolve_path(str(file))


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite journal; None for another database, or one in memory."""
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) and url != _SQLITE else None


class JournalSpec(BaseModel):
    """Settings of the journal of verdicts.

    A path may begin with `$ROADWORK_STATE`, the state folder. Relative paths start where the server is started.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="Record every verdict.")
    url: str = Field(
        default=DEFAULT_URL,
        description="Database URL: sqlite:/// with a path, or postgresql://USER@HOST/DATABASE.",
    )
    password_env: str | None = Field(
        default=None,
        description="Name of the environment variable with the database's password, so that no file holds it.",
    )
    features: bool = Field(
        default=True, description="Store the features of stage 1, for training heads. They take 2 bytes a number."
    )
    media_folder: str = Field(default=f"{_STATE}/journal/media", description="Folder for the media files.")
    max_media_gib: float = Field(
        default=2.0,
        ge=0,
        description="Space for media files in GiB. When it is full, the least informative are deleted. 0 stores none.",
    )
    media_days: float | None = Field(
        default=30.0,
        gt=0,
        description="Days after which a media file is deleted, unless a person has labeled it. null keeps them.",
    )
    spool_folder: str = Field(
        default=f"{_STATE}/journal/spool",
        description="Folder for records that the journal has not yet acknowledged.",
    )
    max_spool_mib: int = Field(
        default=256,
        ge=1,
        description="Space for those records in MiB in each ingress replica. Further records are dropped and counted.",
    )
    num_cpus: float = Field(default=0.1, ge=0, description="Logical CPUs Ray reserves for the journal.")

    def resolved(self) -> "JournalSpec":
        """Return the settings with absolute paths: replicas may start in another directory."""
        folders = {name: resolve_path(getattr(self, name)) for name in ("media_folder", "spool_folder")}
        return self.model_copy(update=folders | {"url": resolve_url(self.url)})
