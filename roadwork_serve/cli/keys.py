"""`roadwork keys`: API keys."""

from enum import StrEnum
from typing import Annotated

import typer

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
) -> None:
    """Create an API key and print it once.

    The key goes to stdout. Its entry for the server's key file goes to stderr; the entry holds only a digest.
    """
    from roadwork_serve.api.api_keys import FILE_VARIABLE, new_key

    secret, entry = new_key(name, role.value, per_minute)
    echo(f"# Add this entry to the file that {FILE_VARIABLE} names. The key itself is stored nowhere.", err=True)
    echo(entry.entry(), err=True)
    echo(secret)
