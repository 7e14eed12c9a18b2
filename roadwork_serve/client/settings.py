"""Settings of a client: the address of the server, the key, time limits and retries."""

import os
import re
from dataclasses import dataclass
from typing import Any

import httpx

from roadwork_serve.errors import BadRequest

KEY_VARIABLE = "ROADWORK_API_KEY"
LOCAL_SERVER = "http://127.0.0.1:8000"

# People copy the address from a command with curl.
_ROUTE = re.compile(r"(?<=[^/:])/+(v1(/.*)?|healthz|readyz|docs|console|openapi\.json)/*$")


@dataclass(frozen=True, slots=True)
class Retry:
    """Limits for sending a request again.

    A request is repeated after a response with status 429 or 503 and a Retry-After header, and only where that is safe:
    the server rejected it before doing any work, or repeating it changes nothing.
    """

    #: Requests sent for one call, the first one included; 1 disables retrying.
    max_tries: int = 4
    #: Longest total pause between the requests of one call, seconds.
    max_wait_s: float = 30.0


DEFAULT_RETRY = Retry()


class ClientSettings:
    """Settings that both clients share. Raises BadRequest when the URL or the key cannot be used."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, grace_s: float, retry: Retry) -> None:
        self.url = _address(url)
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self.retry = retry
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        if key and not (key.isascii() and key.isprintable()):
            raise BadRequest(f"the API key has characters that no key has; check {KEY_VARIABLE}")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def _for_httpx(self) -> dict[str, Any]:
        """Return the settings of the httpx client."""
        return {"base_url": self.url, "headers": self._headers, "follow_redirects": False}


def _address(url: str) -> str:
    """Return the address of a server, without the path of a route if one was given. Raises BadRequest."""
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = httpx.URL(whole)
    except httpx.InvalidURL as error:
        raise BadRequest(f"{whole.rstrip('/')!r} is no URL ({error}); give one such as {LOCAL_SERVER}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise BadRequest(f"{url!r} is no address of a server; give one such as {LOCAL_SERVER}")
    if parts.query or parts.fragment:
        raise BadRequest(f"{url!r} has a query or a fragment; give the address alone, such as {LOCAL_SERVER}")
    return _ROUTE.sub("", whole).rstrip("/")
