"""The state folder: journal, media, spool, tokens and heads of this user's servers, which no other user can read."""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from roadwork_serve.errors import ConfigError

VARIABLE = "ROADWORK_STATE"


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path: ROADWORK_STATE, or else roadwork-serve in XDG_STATE_HOME, by default ~/.local/state."""
    if chosen := environment.get(VARIABLE):
        return Path(chosen).absolute()
    base = Path(environment.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local/state") / "roadwork-serve"


def make_folder(folder: Path) -> Path:
    """Make a folder and its missing parents for this user alone, and return it; existing ones stay as they are.

    Raises OSError.
    """
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def secret_file(file: Path) -> Path:
    """Return a file with a random secret for this user alone, which is made with its folder at the first call.

    Raises:
        ConfigError: The folder belongs to another user, or cannot be made.
    """
    folder = make_private(file.parent)
    if not file.exists():
        new = folder / f".{file.name}-{os.getpid()}"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as output:
            output.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another process was faster, and its secret counts
            os.link(new, file)
        new.unlink()
    return file


def keep_private() -> None:
    """Let every file and folder that this process creates from now on belong to its user alone."""
    os.umask(0o077)


def make_private(folder: Path) -> Path:
    """Make a folder that only this user can enter, with its parents, and return it.

    An existing folder of this user loses the permissions of others.

    Raises:
        ConfigError: The folder belongs to another user, or cannot be made.
    """
    try:
        make_folder(folder)
        about = folder.stat()
        if about.st_uid != os.getuid():
            raise ConfigError(f"{folder} belongs to another user; name a folder of your own with {VARIABLE}")
        if about.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made ({error}); name another one with {VARIABLE}") from None
    return folder
