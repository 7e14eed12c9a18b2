"""The report of a start for a person: what is still loading, what failed, and where the server is once it is ready."""

import os
import sys
import threading
import time
from pathlib import Path

import httpx
from ray import serve
from ray.serve.schema import ApplicationStatus

from deployments.local_ray import Dashboard
from roadwork_serve.api.api_keys import ADMIN_TOKEN
from roadwork_serve.console_link import console_link, open_link
from roadwork_serve.errors import ConfigError
from roadwork_serve.state_folder import state_folder
from roadwork_serve.terminal import echo, echo_error

_POLL_S = 0.5
_SAY_S = 10.0
_LONG_S = 30.0  # as when a model is downloaded


def report_start(url: str, dashboard: Dashboard, open_console: bool) -> None:
    """Report on the start in a thread until the server is ready. Then start the dashboard, and say where it is."""
    threading.Thread(target=_report, args=(url, dashboard, open_console), name="startup report", daemon=True).start()


def _report(url: str, dashboard: Dashboard, open_console: bool) -> None:
    began = said = time.monotonic()
    told = ""
    while True:
        time.sleep(_POLL_S)
        title, ready = _readiness(url)
        if ready:
            dashboard.start()
            break
        now = time.monotonic()
        failure = _failure()
        if failure or now >= began + _LONG_S:  # there is something to look at
            dashboard.start()
        if failure and failure != told:
            told = failure
            echo_error(f"The start failed: {failure}")
            echo("Ray tries again; stop the server with Ctrl-C.", err=True)
        elif not failure and now >= said + _SAY_S:
            said = now
            echo(f"  {said - began:.0f} s: {title}", err=True)
    token = _admin_token()
    echo(f"Ready after {time.monotonic() - began:.0f} s.", err=True, color="green")
    # A log file or a service manager's journal is no place for a secret.
    link = console_link(url, token) if sys.stderr.isatty() else f"{url}/"
    hint = "" if token is None or sys.stderr.isatty() else "  (`roadwork console` prints the link with the admin token)"
    echo(f"  Console    {link}{hint}", err=True)
    echo(f"  API        {url}/docs", err=True)
    if open_console:
        try:
            open_link(console_link(url, token), state_folder())
        except ConfigError as error:
            echo_error(str(error))
    echo(f"  Dashboard  {dashboard.url()}", err=True)


def _readiness(url: str) -> tuple[str, bool]:
    """Return what the server lacks, and whether it is ready."""
    try:
        response = httpx.get(f"{url}/readyz", timeout=2)
        detail = "" if response.status_code == 200 else str(response.json().get("detail", ""))
    except (httpx.HTTPError, ValueError, AttributeError):
        return "starting the processes", False
    return detail or "starting the processes", response.status_code == 200


def _failure() -> str | None:
    """Return why an application cannot be deployed, or None."""
    try:
        applications = serve.status().applications.values()
    except Exception:  # the controller is not there yet, or no longer
        return None
    failed = [each for each in applications if each.status == ApplicationStatus.DEPLOY_FAILED]
    return "; ".join(each.message for each in failed) or None


def _admin_token() -> str | None:
    file: Path = state_folder() / ADMIN_TOKEN
    keys = os.environ.get("ROADWORK_KEYS_FILE") or os.environ.get("ROADWORK_KEYS")
    try:
        return None if keys else file.read_text(encoding="ascii")
    except OSError:
        return None
