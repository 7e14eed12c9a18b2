"""Headers that Ray Serve's proxy reads itself."""

from typing import Any

import pytest

from deployments.proxy_middleware import CleanHeaders, middlewares
from roadwork_serve.ray_environment import RAY

Headers = list[tuple[bytes, bytes]]


async def passed_on(headers: Headers, kind: str = "http") -> Headers:
    seen: Headers = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    await CleanHeaders(app)({"type": kind, "headers": headers}, None, None)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-id",
        b"x-request-timeout-seconds",
        b"x-session-id",
        b"serve-multiplexed-model-id",
        b"serve_multiplexed_model_id",
    ],
)
async def test_what_the_proxy_decodes_is_ascii(name: bytes) -> None:
    assert await passed_on([(name, b"a\xff\x9b1\x1b[m")]) == [(name, b"a??1?[m")]
    assert await passed_on([(name, b"mine-1")]) == [(name, b"mine-1")]


async def test_other_headers_stay_as_they_are() -> None:
    headers = [(b"x-request-key", b"caf\xc3\xa9"), (b"authorization", b"Bearer \xff"), (b"host", b"a")]
    assert await passed_on(headers) == headers
    assert await passed_on([(b"x-request-id", b"\xff")], "websocket") == [(b"x-request-id", b"\xff")]


@pytest.mark.parametrize("name", [b"x-request-disconnect-disabled", b"X-Request-Disconnect-Disabled"])
async def test_nobody_keeps_the_server_working_for_a_client_that_hung_up(name: bytes) -> None:
    assert await passed_on([(name, b"?1"), (b"host", b"a")]) == [(b"host", b"a")]


def test_ray_is_told_of_the_middleware() -> None:
    from ray.serve._private.utils import call_function_from_import_path

    (found,) = call_function_from_import_path(RAY["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    assert found.cls is CleanHeaders and [each.cls for each in middlewares()] == [CleanHeaders]
