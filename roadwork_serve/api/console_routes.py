"""The web pages: the console and the API's documentation, from files that come with this package and Swagger UI's."""

import os
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(str(resources.files("roadwork_serve").joinpath("console")))
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")

_ROOT = {"name": "roadwork-serve", "classify": "POST /v1/classify", "docs": "/docs", "openapi": "/openapi.json"}


def console_routes() -> APIRouter:
    """Return the routes: `/` for browsers and for programs, `/docs`, and the pages' files at `/console/`."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(_ROOT, headers={"Vary": "Accept"})
        return FileResponse(FOLDER / "index.html", headers={"Vary": "Accept"})

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(FOLDER / "docs.html")

    # The package holds the files of a Swagger UI release; its own routes, which put scripts into the page, are unused.
    swagger = Path(str(resources.files("fastapi_swagger.resources")))
    routes.routes.append(Mount("/console/swagger", _Swagger(directory=swagger)))
    routes.routes.append(Mount("/console", StaticFiles(directory=FOLDER, html=True)))
    return routes


class _Swagger(StaticFiles):
    """The files of Swagger UI, and nothing else that is in their folder."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if path in SWAGGER_FILES else ("", None)
