"""`roadwork console`: the link to the console of this user's server, with its admin token."""

from typing import Annotated

import typer

from roadwork_serve.terminal import echo


def console(
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser instead of printing it.")] = False,
) -> None:
    """Print a link to the console of your running server. It carries the admin token: keep it to yourself."""
    from roadwork_serve.cli.server_client import admin_token
    from roadwork_serve.console_link import console_link, open_link
    from roadwork_serve.errors import ConfigError
    from roadwork_serve.running_server import running_server
    from roadwork_serve.state_folder import state_folder

    state = state_folder()
    server = running_server(state)
    if server is None:
        raise ConfigError(f"no server of yours is running with the state folder {state}; start one with `make serve`")
    link = console_link(server.url, admin_token(server.url))
    if open_it:
        open_link(link, state)
    else:
        echo(link)
