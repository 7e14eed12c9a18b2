"""The routes that report the state of the server: health, readiness, info and statistics."""

from typing import Protocol

from fastapi import APIRouter

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.problem_details import documented
from roadwork_serve.errors import NotReady
from roadwork_serve.schema import Health, Readiness, Stats
from roadwork_serve.server_state import Info


class StatusService(Protocol):
    """The state of the server as the routes need it; see `status.Status`."""

    def readiness(self) -> Readiness:
        """Return the stages that are up. Raises NotReady."""
        ...

    def info(self) -> Info:
        """Return the description of the server."""
        ...

    async def stats(self) -> Stats:
        """Return the statistics of every replica."""
        ...


def status_routes(status: StatusService, auth: Authenticator) -> tuple[APIRouter, ...]:
    """Return the routes: those without authentication, and those for clients."""
    probes, clients = APIRouter(tags=["status"]), auth.router("client", "status")

    @probes.get("/healthz", summary="Check that the process is alive")
    async def health() -> Health:
        return Health()

    @probes.get(
        "/readyz",
        summary="Check that requests are accepted",
        responses=documented(NotReady("still loading: vlm, video")),
    )
    async def ready() -> Readiness:
        return status.readiness()

    @clients.get("/v1/info", summary="Describe the server", openapi_extra=auth.openapi)
    async def info() -> Info:
        return status.info()

    @clients.get("/v1/stats", summary="Show the load and statistics of every replica", openapi_extra=auth.openapi)
    async def stats() -> Stats:
        return await status.stats()

    return probes, clients
