"""The web console: static files that come with the package, and sample images."""

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = Path(str(resources.files("roadwork_serve").joinpath("console")))

# The console connects to this server only, runs only its own scripts, and cannot be framed.
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_ROOT = {"name": "roadwork-serve", "classify": "POST /v1/classify", "docs": "/docs", "openapi": "/openapi.json"}


def console_routes() -> APIRouter:
    """Return the routes: `/` for browsers and for programs, and the console's files at `/console/`."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(_ROOT, headers={"Vary": "Accept"})
        return FileResponse(FOLDER / "index.html", headers=_SAFE | {"Vary": "Accept"})

    routes.routes.append(Mount("/console", _Safe(StaticFiles(directory=FOLDER, html=True))))
    return routes


class _Safe:
    """Middleware that adds the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_SAFE)
            await send(message)

        await self._app(scope, receive, guarded)
