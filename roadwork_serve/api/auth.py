"""Who may ask: keys, roles and rates, held against a request before its body is read."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from roadwork_serve.api.api_keys import FILE_VARIABLE, ApiKey, ApiKeyStore, Role
from roadwork_serve.api.problem_details import documented, response_of
from roadwork_serve.errors import Forbidden, HeadersTooLarge, RateLimited, Unauthorised
from roadwork_serve.profiles.profile import IngressSpec

MAX_HEADERS = 64  # browsers send about 20, proxies add 10
MAX_HEADER_BYTES = 32 * 1024  # names and values, of all headers together
MAX_TARGET_BYTES = 8 * 1024  # path and query

_LOOK_EVERY_S = 1.0
_BEARER = HTTPBearer(scheme_name="bearer", description="a key of `roadwork key`", auto_error=False)
_HEADER = APIKeyHeader(name="X-API-Key", scheme_name="header", description="the same", auto_error=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. key: as the ring had it then; None where no keys are in use."""

    name: str
    role: Role
    key: ApiKey | None = None


@dataclass(slots=True)
class _Spent:
    """What a key has sent of late, in requests: a bucket that leaks at the key's rate and holds a minute's worth."""

    requests: float = 0.0
    at_s: float = 0.0

    def take(self, requests: int, per_minute: float, now_s: float) -> float:
        """Seconds after which so many requests more would fit; at 0 they have been taken."""
        room = max(1.0, per_minute)
        self.requests = max(0.0, self.requests - (now_s - self.at_s) * per_minute / 60)
        self.at_s = now_s
        too_many = self.requests + requests - room
        if too_many > 1e-9:  # what rounding leaves over
            return too_many * 60 / per_minute
        self.requests += requests
        return 0.0


@dataclass(slots=True)
class Authenticator:
    """Lets requests in by their keys.

    keys: None lets everyone do what a client may, and nobody what an admin may.
    replicas: of the ingress; each grants its part of a key's rate.
    clock: seconds, rising.
    """

    keys: ApiKeyStore | None
    replicas: int = 1
    clock: Callable[[], float] = time.monotonic
    _spent: dict[str, _Spent] = field(default_factory=dict)
    _look_at_s: float = 0.0
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def from_environment(cls, replicas: int, environment: Mapping[str, str] = os.environ) -> "Authenticator":
        """A guard with the keys that the environment names. Raises ConfigError when they make no sense."""
        keys = ApiKeyStore.from_environment(environment)
        guard = cls(keys, replicas)
        guard._look_at_s = guard.clock() + _LOOK_EVERY_S
        return guard

    @classmethod
    def of(cls, ingress: IngressSpec) -> "Authenticator":
        """A guard with the keys that the profile names, else those of the environment. Raises ConfigError."""
        if ingress.keys_file is None:
            return cls.from_environment(ingress.replicas)
        return cls(ApiKeyStore.from_file(Path(ingress.keys_file)), ingress.replicas)

    async def admit(self, request: Request, role: Role) -> Caller:
        """Who sent the request, which may do what the role may, and counts as one. Its body is not read.

        Raises Unauthorised, Forbidden and RateLimited.
        """
        if self.keys is None:
            if role == "admin":
                raise Forbidden(
                    "this server has no keys, so nobody may do this; make one with `roadwork key NAME --role admin` "
                    f"and start the server with {FILE_VARIABLE}"
                )
            return Caller("anyone", "client")
        key = await self._known(self.keys, request)
        if role == "admin" and key.role != "admin":
            raise Forbidden(f"the key {key.name} has the role {key.role}; this takes an admin's key")
        caller = Caller(key.name, key.role, key)
        self.charge(caller, 1)
        return caller

    def charge(self, caller: Caller, requests: int, counted: int = 0) -> None:
        """Count one request as so many, of which some have been counted.

        Raises RateLimited, and then counts no more, where that is over the caller's rate.
        """
        if caller.key is None or caller.key.per_minute is None:
            return
        rate = caller.key.per_minute / self.replicas
        allowed = f"the key {caller.name} may send {caller.key.per_minute:,} requests a minute"
        if requests > max(1.0, rate):
            share = f" shared by {self.replicas} replicas" if self.replicas > 1 else ""
            raise RateLimited(f"{allowed}{share}, and this batch counts as {requests}; send smaller ones", 60)
        wait_s = self._spent.setdefault(caller.name, _Spent()).take(requests - counted, rate, self.clock())
        if wait_s > 0:
            raise RateLimited(f"{allowed}; come back in {wait_s:.1f} s", wait_s)

    async def client(
        self,
        request: Request,
        bearer: Annotated[object, Security(_BEARER)],
        header: Annotated[object, Security(_HEADER)],
    ) -> Caller:
        """Dependency of routes for clients. FastAPI awaits it once a request."""
        return await self.admit(request, "client")

    async def admin(
        self,
        request: Request,
        bearer: Annotated[object, Security(_BEARER)],
        header: Annotated[object, Security(_HEADER)],
    ) -> Caller:
        """Dependency of routes for admins."""
        return await self.admit(request, "admin")

    async def keeper(
        self,
        request: Request,
        bearer: Annotated[object, Security(_BEARER)],
        header: Annotated[object, Security(_HEADER)],
    ) -> Caller:
        """Dependency of routes over what others sent: for admins; on a server without keys for whoever may use it.

        Such a server is known by its address. A name in the Host header may be one that a foreign page has let point
        here, to read through a visitor's browser what the server has seen: it is refused with Forbidden.
        """
        if self.keys is None and not _is_address(request.url.hostname or ""):
            raise Forbidden(
                "this server has no keys, so it shows what it has seen only at its address, such as 127.0.0.1 or "
                "localhost; give it keys to use it by a name"
            )
        return await self.admit(request, "client" if self.keys is None else "admin")

    @property
    def openapi(self) -> dict[str, Any]:
        """What a client's route adds to its account in OpenAPI: on a server without keys, that none is needed."""
        return {"security": [{}]} if self.keys is None else {}

    def router(self, role: Role | Literal["keeper"]) -> APIRouter:
        """A router whose routes are for a role. FastAPI reads a body that is a parameter first, so take the Request."""
        name = "dashcams" if role == "client" else "admin"
        allowed = {"admin": self.admin, "client": self.client, "keeper": self.keeper}
        return APIRouter(
            dependencies=[Depends(allowed[role])],
            responses=documented(
                Unauthorised("the key is not known; ask for one"),
                Forbidden(f"the key {name} has the role client; this takes an admin's key"),
                RateLimited(f"the key {name} may send 600 requests a minute; come back in 0.4 s"),
            ),
        )

    async def _known(self, keys: ApiKeyStore, request: Request) -> ApiKey:
        async with self._looking:
            if (now_s := self.clock()) >= self._look_at_s:
                self._look_at_s = now_s + _LOOK_EVERY_S
                await asyncio.to_thread(keys.look)
                names = {key.name for key in keys.ring.keys}
                self._spent = {name: spent for name, spent in self._spent.items() if name in names}
        presented = _presented(request)
        if not presented:
            raise Unauthorised("send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        key = keys.ring.find(presented)
        if key is None:
            raise Unauthorised("the key is not known; check that all of it was sent, or ask for a new one")
        return key


class HeaderLimits:
    """Refuses requests with an absurd target or headers. What they cost by then is the proxy's: see ops/proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := _absurd(scope)) is not None:
            return await response_of(error, scope["state"]["request_id"])(scope, receive, send)
        await self._app(scope, receive, send)


def _absurd(scope: Scope) -> Exception | None:
    """What is too much about the head of a request."""
    headers, target = scope["headers"], len(scope["path"]) + len(scope["query_string"])
    size = sum(len(name) + len(value) for name, value in headers)
    if target > MAX_TARGET_BYTES:
        return HTTPException(414, f"path and query have {target:,} bytes; send at most {MAX_TARGET_BYTES:,}")
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        return HeadersTooLarge(
            f"the request has {len(headers):,} headers of {size:,} bytes; send at most {MAX_HEADERS} of "
            f"{MAX_HEADER_BYTES:,} bytes in all"
        )
    return None


def _is_address(host: str) -> bool:
    """Whether a host is given by number, or is this machine's own name for itself."""
    if host == "localhost":
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _presented(request: Request) -> str:
    """The key of a request as it was sent; empty when there is none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
