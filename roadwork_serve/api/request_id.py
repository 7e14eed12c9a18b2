"""The id of each request, in responses, logs and the journal."""

import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """Middleware that names each request: the client's X-Request-Id if it is valid, else a new id.

    Args:
        app: The application.
        respond: Set the X-Request-Id of responses. False behind Ray Serve's proxy, which sets it itself.
    """

    def __init__(self, app: ASGIApp, respond: bool) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with `request_id` in its state."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if self._respond and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, named)
