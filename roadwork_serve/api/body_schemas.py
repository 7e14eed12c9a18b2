"""The OpenAPI descriptions of request bodies with files."""

from typing import Any

from roadwork_serve.api.openapi import reference
from roadwork_serve.schema import MAX_DEADLINE_MS, ClassifyRequest

_ONE = "The bytes of the file, whose Content-Type plays no role; or a form, or JSON."


def _request_body(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": description, "content": content}}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DEADLINE = {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS}
ONE_FILE = _request_body(
    _ONE,
    {
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": _BINARY["schema"], "deadline_ms": _DEADLINE},
                "required": ["file"],
            }
        },
        "application/json": {
            "schema": reference(ClassifyRequest),
            "example": {"image": "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==", "deadline_ms": 2000},
        },
    },
)
MANY_FILES = _request_body(
    "A form with the files.",
    {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "array", "items": _BINARY["schema"]},
                    "deadline_ms": _DEADLINE,
                },
                "required": ["file"],
            }
        }
    },
)
