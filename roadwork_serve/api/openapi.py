"""The OpenAPI document: short operation ids, and what FastAPI adds or leaves out corrected."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from roadwork_serve.schema import ClassifyRequest, HumanLabel

_REF = "#/components/schemas/"
#: Models of bodies that routes read themselves, so that FastAPI does not know them.
_BODIES: tuple[type[BaseModel], ...] = (ClassifyRequest, HumanLabel)
_UNUSED = ("HTTPValidationError", "ValidationError")  # an invalid parameter is a problem with the status 400 here


def operation_id(route: APIRoute) -> str:
    """Return the id of an operation: the name of its function, which is that of the method of `Client`."""
    return route.name


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body that a route reads itself."""
    return {"$ref": _REF + model.__name__}


def complete_openapi(app: FastAPI) -> None:
    """Let the application correct its document when it is first asked for it."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document["components"]["schemas"]
            for name in _UNUSED:
                schemas.pop(name, None)
            for model in _BODIES:
                schemas[model.__name__] = model.model_json_schema(ref_template=_REF + "{model}")
            for operations in document["paths"].values():
                for operation in operations.values():
                    if _is_fastapis(operation["responses"].get("422")):
                        del operation["responses"]["422"]
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _is_fastapis(response: dict[str, Any] | None) -> bool:
    """Return whether this is the response that FastAPI adds to every route with parameters."""
    content = (response or {}).get("content", {}).get("application/json", {})
    return content.get("schema", {}).get("$ref") == _REF + _UNUSED[0]
