"""The client with which commands reach a server: on this user's own, they are the admin without further ado."""

import os

from roadwork_serve.api.api_keys import ADMIN_TOKEN
from roadwork_serve.client import KEY_VARIABLE, Client
from roadwork_serve.running_server import running_server
from roadwork_serve.state_folder import state_folder


def server_client(url: str) -> Client:
    """Return a client with the key in ROADWORK_API_KEY, or else the admin token of this user's server at the URL.

    The token is sent only to the address that this user's running server has published in the state folder, so that no
    other program that listens on a port gets it.
    """
    return Client(url, api_key=None if os.environ.get(KEY_VARIABLE) else admin_token(url))


def admin_token(url: str) -> str | None:
    """Return the admin token of this user's running server if it has the URL; else None."""
    state = state_folder()
    server = running_server(state)
    if server is None or server.url != url.rstrip("/").replace("//localhost:", "//127.0.0.1:"):
        return None
    try:
        return (state / ADMIN_TOKEN).read_text(encoding="ascii")
    except OSError:  # it runs with keys
        return None
