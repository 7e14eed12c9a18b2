"""Files in the miner's state folder, which a power cut may leave damaged: that never keeps the miner from starting."""

import logging
import os
from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.state_folder import make_folder

_LOG = logging.getLogger("roadwork.miner.state")


def make_state_folder(folder: Path) -> None:
    """Make the folder. Raises ConfigError if that is impossible."""
    try:
        make_folder(folder)
        if not folder.is_dir():
            raise NotADirectoryError(20, "Not a directory")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot hold the miner's state: {error.strerror}; name another folder with --state"
        ) from None


def read_state(file: Path) -> bytes | None:
    """Return the content of a file; None without one. Raises ConfigError if it cannot be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}; move it away, or name another folder with --state"
        ) from None


def set_aside(file: Path, damaged: bytes, what: str) -> None:
    """Append what cannot be read of a file to FILE.damaged, and log it with what follows from it."""
    aside = file.with_name(f"{file.name}.damaged")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            output.write(damaged.rstrip(b"\n") + b"\n")
        kept = f"it is kept in {aside}"
    except OSError as error:
        kept = f"it cannot be kept in {aside}: {error.strerror}"
    _LOG.warning("%s is damaged, as after a power cut: %s; %s.", file, what, kept)
