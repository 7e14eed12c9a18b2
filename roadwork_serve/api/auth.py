"""Authentication, roles and rate limits, checked before the body of a request is read."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from roadwork_serve.api.api_keys import ADMIN_TOKEN, ApiKey, ApiKeyStore, Role
from roadwork_serve.api.problem_details import documented, response_of
from roadwork_serve.api.request_parameters import check_query
from roadwork_serve.errors import Forbidden, HeadersTooLarge, RateLimited, Unauthorised
from roadwork_serve.profiles.ingress_spec import IngressSpec
from roadwork_serve.state_folder import secret_file, state_folder
from roadwork_serve.token_bucket import TokenBucket

MAX_HEADERS = 64  # browsers send about 20, proxies add 10
MAX_HEADER_BYTES = 32 * 1024  # names and values, of all headers together
MAX_TARGET_BYTES = 8 * 1024  # path and query

_REFRESH_INTERVAL_S = 1.0  # of the keys
_BEARER = HTTPBearer(
    scheme_name="bearer", description="An API key; `roadwork keys create` makes one.", auto_error=False
)
_HEADER = APIKeyHeader(
    name="X-API-Key", scheme_name="header", description="The same key in another header.", auto_error=False
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request."""

    #: Name of the key; anyone for a request that needs none.
    name: str
    role: Role
    #: The key; None for a request that needs none.
    key: ApiKey | None = None


_ANYONE = Caller("anyone", "client")
_ADMIN_HINT = (
    f"this needs the admin token of the server, which is in the file {ADMIN_TOKEN} of its state folder: `roadwork "
    "console` prints a link with it, and `roadwork` commands on the same machine send it by themselves"
)


@dataclass(slots=True)
class Authenticator:
    """Authenticates requests by API key."""

    #: The keys; None if there are none, and so no admin.
    keys: ApiKeyStore | None
    #: Ingress replicas; each grants its share of a key's rate.
    replicas: int = 1
    #: Returns seconds.
    clock: Callable[[], float] = time.monotonic
    #: Whether the keys are the admin token alone: anyone may do what a client may.
    token_only: bool = False
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)
    _refresh_at_s: float = 0.0
    _refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def from_environment(cls, replicas: int, environment: Mapping[str, str] = os.environ) -> "Authenticator":
        """Return an authenticator with the keys that the environment names, or else the admin token.

        The token is made in the state folder if it is missing. Raises ConfigError.
        """
        keys = ApiKeyStore.from_environment(environment)
        if keys is None:
            token = secret_file(state_folder(environment) / ADMIN_TOKEN)
            return cls(ApiKeyStore.from_token(token), replicas, token_only=True)
        auth = cls(keys, replicas)
        auth._refresh_at_s = auth.clock() + _REFRESH_INTERVAL_S
        return auth

    @classmethod
    def of(cls, ingress: IngressSpec) -> "Authenticator":
        """Return an authenticator with the keys of the profile, or else of the environment. Raises ConfigError."""
        if ingress.keys_file is None:
            return cls.from_environment(ingress.replicas)
        return cls(ApiKeyStore.from_file(Path(ingress.keys_file)), ingress.replicas)

    async def authenticate(self, request: Request, role: Role) -> Caller:
        """Return the caller if it has the role, and count one request. The body is not read.

        Raises Unauthorised, Forbidden and RateLimited.
        """
        if self.open and role == "client":
            return _ANYONE
        if self.keys is None:
            raise Forbidden("this server has neither keys nor an admin token, so nobody may do this")
        key = await self._find_key(self.keys, request)
        if role == "admin" and key.role != "admin":
            raise Forbidden(f"the key {key.name} has the role {key.role}; this needs an admin's key")
        caller = Caller(key.name, key.role, key)
        request.state.caller = key.name  # whose body it is, see incoming_bodies
        self.charge(caller, 1)
        return caller

    def charge(self, caller: Caller, requests: int, counted: int = 0) -> None:
        """Count one request as several, some of which have been counted already.

        Raises RateLimited, without counting more, if that exceeds the caller's rate.
        """
        if caller.key is None or caller.key.per_minute is None:
            return
        rate = caller.key.per_minute / self.replicas
        allowed = f"the key {caller.name} may send {caller.key.per_minute:,} requests a minute"
        if requests > max(1.0, rate):
            share = f" shared by {self.replicas} replicas" if self.replicas > 1 else ""
            raise RateLimited(f"{allowed}{share}, and this batch counts as {requests}; send smaller batches", 60)
        bucket = self._buckets.setdefault(caller.name, TokenBucket())
        if wait_s := bucket.take(requests - counted, rate, self.clock()):
            raise RateLimited(f"{allowed}; come back in {wait_s:.1f} s", wait_s)

    async def client(
        self,
        request: Request,
        bearer: Annotated[object, Security(_BEARER)],
        header: Annotated[object, Security(_HEADER)],
    ) -> Caller:
        """Authenticate a client. A dependency of routes, which FastAPI awaits once a request."""
        return await self.authenticate(request, "client")

    async def admin(
        self,
        request: Request,
        bearer: Annotated[object, Security(_BEARER)],
        header: Annotated[object, Security(_HEADER)],
    ) -> Caller:
        """Authenticate an admin. A dependency of routes."""
        return await self.authenticate(request, "admin")

    @property
    def open(self) -> bool:
        """True if anyone may do what a client may."""
        return self.keys is None or self.token_only

    @property
    def openapi(self) -> dict[str, Any]:
        """The addition to a client route's OpenAPI operation: that no key is needed, if so."""
        return {"security": [{}]} if self.open else {}

    def router(self, role: Role, tag: str) -> APIRouter:
        """Return a router whose routes need the role, and have a tag in the OpenAPI document.

        FastAPI would read a body that is a parameter before authentication, so routes take the Request instead.
        """
        name = "dashcams" if role == "client" else "admin"
        return APIRouter(
            tags=[tag],
            dependencies=[Depends(self.client if role == "client" else self.admin), Depends(check_query)],
            responses=documented(
                Unauthorised("the key is unknown; ask for one"),
                Forbidden(f"the key {name} has the role client; this needs an admin's key"),
                RateLimited(f"the key {name} may send 600 requests a minute; come back in 0.4 s"),
            ),
        )

    async def _find_key(self, keys: ApiKeyStore, request: Request) -> ApiKey:
        async with self._refreshing:
            if (now_s := self.clock()) >= self._refresh_at_s:
                self._refresh_at_s = now_s + _REFRESH_INTERVAL_S
                await asyncio.to_thread(keys.refresh)
                names = {key.name for key in keys.ring.keys}
                self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in names}
        secret = _secret(request)
        if not secret:
            how = "send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Unauthorised(_ADMIN_HINT if self.token_only else how)
        key = keys.ring.find(secret)
        if key is None and self.token_only:
            raise Unauthorised(f"the key is unknown; {_ADMIN_HINT}")
        if key is None:
            raise Unauthorised("the key is unknown; check that all of it was sent, or ask for a new one")
        return key


class HeaderLimits:
    """Middleware that rejects requests whose target or headers are too large. For the cost until then see ops/proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject an oversized request, or pass it on."""
        if scope["type"] == "http" and (error := _oversized(scope)) is not None:
            return await response_of(error, scope["state"]["request_id"])(scope, receive, send)
        await self._app(scope, receive, send)


def _oversized(scope: Scope) -> Exception | None:
    """Return the error of a request whose target or headers are too large, else None."""
    headers, target = scope["headers"], len(scope["path"]) + len(scope["query_string"])
    size = sum(len(name) + len(value) for name, value in headers)
    if target > MAX_TARGET_BYTES:
        return HTTPException(414, f"path and query have {target:,} bytes; send at most {MAX_TARGET_BYTES:,}")
    count = sum(name != b"x-forwarded-for" for name, _ in headers)  # HAProxy adds one of its own
    if count > MAX_HEADERS or size > MAX_HEADER_BYTES:
        return HeadersTooLarge(
            f"the request has {count:,} headers of {size:,} bytes; send at most {MAX_HEADERS} of "
            f"{MAX_HEADER_BYTES:,} bytes in all"
        )
    return None


def _secret(request: Request) -> str:
    """Return the key that a request carries; empty if there is none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
