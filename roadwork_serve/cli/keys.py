"""`roadwork keys`: API keys."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import echo

keys = typer.Typer(no_args_is_help=True, help="Create API keys.")


class Role(StrEnum):
    """Permissions of the holder of a key."""

    client = "client"
    admin = "admin"


@keys.callback()
def main() -> None:
    """Create API keys."""


@keys.command()
def create(
    name: Annotated[
        str, typer.Argument(help="Name of the key's holder: letters, digits, dots, hyphens and underscores.")
    ],
    role: Annotated[Role, typer.Option(help="A client may classify; an admin may do everything.")],
    per_minute: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Largest number of requests a minute. Unlimited by default."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the key to this new file, which only you can read, instead of printing it."),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(help="Add the entry to the server's key file, made if it is missing, instead of printing it."),
    ] = None,
) -> None:
    """Create an API key and print it once.

    The key goes to stdout. Its entry for the server's key file goes to stderr; the entry holds only a digest.
    """
    from roadwork_serve.api.api_keys import FILE_VARIABLE, add_entry, new_key

    secret, entry = new_key(name, role.value, per_minute)
    if out is not None:
        _write_secret(out, secret)
    if keys_file is None:
        note = f"# Add this entry to the file that {FILE_VARIABLE} names. The key itself is stored nowhere."
        echo(note, err=True)
        echo(entry.entry(), err=True)
    else:
        try:
            add_entry(keys_file, entry)
        except ConfigError:
            if out is not None:
                out.unlink(missing_ok=True)  # a key that opens nothing
            raise
        echo(f"The entry of {name} is in {keys_file}.", err=True)
    if out is None:
        echo(secret)
    else:
        echo(f"The key is in {out}.", err=True)


def _write_secret(file: Path, secret: str) -> None:
    """Write a new file that only this user can read. Raises ConfigError if there is one, or the disk refuses."""
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(secret + "\n")
    except FileExistsError:
        raise ConfigError(f"{file} already exists; name a new file, so that no key is lost") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}; name another --out") from None
