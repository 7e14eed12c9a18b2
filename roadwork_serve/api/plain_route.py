"""A shorter way to a route for requests without parameters, without FastAPI's resolution of them."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from re import Pattern

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope


class PlainRoute(Route):
    """Matches requests of a route that have no query and none of its headers, or simple ones; others are left to it.

    For a route whose parameters are in the query and in headers, and whose response is a model with the usual settings:
    then its response is the same. Put it before the route, which stays in the OpenAPI document.
    """

    def __init__(
        self,
        route: APIRoute,
        answer: Callable[[Request], Awaitable[BaseModel]],
        simple: Mapping[bytes, Pattern[bytes]],
    ) -> None:
        """Create a route.

        Args:
            route: Route with the parameters, whose dependencies `answer` runs itself.
            answer: Returns the response of a request.
            simple: Headers of the route, in lower case, that `answer` reads itself if their value matches as a whole.
        """

        async def respond(request: Request) -> Response:
            found = await answer(request)
            return Response(found.model_dump_json(by_alias=True), media_type="application/json")

        super().__init__(route.path, respond, methods=route.methods, name=route.name, include_in_schema=False)
        self._headers = frozenset(name.lower().encode() for name in _header_names(route.dependant))
        self._simple = simple

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route`. Requests with another method are left to the route, too."""
        found, child = super().matches(scope)
        if found is Match.FULL and not scope["query_string"] and self._is_simple(scope["headers"]):
            return found, child
        return Match.NONE, {}

    def _is_simple(self, headers: list[tuple[bytes, bytes]]) -> bool:
        own = [(name, value) for name, value in headers if name in self._headers]
        simple = all(name in self._simple and self._simple[name].fullmatch(value) for name, value in own)
        return simple and len({name for name, _ in own}) == len(own)


def _header_names(dependant: Dependant) -> Iterator[str]:
    yield from (str(each.alias) for each in dependant.header_params)
    for each in dependant.dependencies:
        yield from _header_names(each)
