"""Links to the console that carry the admin token, as a fragment, which browsers do not send."""

import html
import webbrowser
from pathlib import Path

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.errors import ConfigError


def console_link(url: str, token: str | None) -> str:
    """Return the link to the console of a server."""
    return f"{url}/" if token is None else f"{url}/#token={token}"


def open_link(link: str, state: Path) -> None:
    """Open a link in the browser, by way of a page in the state folder: every user can read a browser's arguments.

    Raises:
        ConfigError: There is no browser, or the page cannot be written.
    """
    page = state / "console.html"
    target = html.escape(link, quote=True)
    with replace_file(page, mode=0o600) as draft:
        draft.write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">The console</a>\n',
            encoding="utf-8",
        )
    if not webbrowser.open(page.as_uri()):
        raise ConfigError("there is no browser here; print the link with `roadwork console`")
