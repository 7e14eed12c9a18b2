"""The routes of whoever runs the server: the policy, and the load."""

import json
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request

from roadwork_serve.api.auth import Authenticator, Caller
from roadwork_serve.api.problem_details import documented
from roadwork_serve.api.request_body import read_whole
from roadwork_serve.errors import BadRequest, MediaTooLarge, PolicyConflict, PolicyRefused
from roadwork_serve.schema import PolicyChange, PolicyState, Stats

MAX_POLICY_BYTES = 256 * 1024


class PolicyService(Protocol):
    """What the routes need of the ingress."""

    async def put_policy(self, rules: object, by: str) -> PolicyChange:
        """Bring rules into force on every replica. Raises PolicyRefused and PolicyConflict."""
        ...

    async def roll_back(self, by: str) -> PolicyChange:
        """Bring back what was in force before. Raises PolicyConflict."""
        ...

    async def policy(self) -> PolicyState:
        """What is in force."""
        ...

    async def stats(self) -> Stats:
        """The load of every replica."""
        ...


def policy_routes(service: PolicyService, guard: Authenticator) -> tuple[APIRouter, ...]:
    """The routes, by who may use them."""
    admins, clients = guard.router("admin"), guard.router("client")

    @admins.put(
        "/v1/policy",
        summary="Bring a policy into force on every replica, at once",
        responses=documented(
            BadRequest("the body is no JSON: Expecting value"),
            MediaTooLarge(f"the request is larger than {MAX_POLICY_BYTES:,} bytes; send less"),
            PolicyConflict("version 'mini-2' has been in force with other content; give this one a version of its own"),
            PolicyRefused("policy: photo[0].exit: low 0.9 is above high 0.1; write [0.1, 0.9]?"),
        ),
        openapi_extra=policy_body(
            "A policy; or rules: `policy`, with `split` {policy, share} and `shadow` {policy, share, second_head, "
            "at_once} where wanted."
        ),
    )
    async def put_policy(request: Request, caller: Annotated[Caller, Depends(guard.admin)]) -> PolicyChange:
        body = await read_whole(request, MAX_POLICY_BYTES)
        try:
            rules = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from None
        return await service.put_policy(rules, caller.name)

    @admins.post(
        "/v1/policy/rollback",
        summary="Bring back the policy that was in force before",
        responses=documented(PolicyConflict("nothing was in force before this; put the policy you want")),
    )
    async def roll_back(caller: Annotated[Caller, Depends(guard.admin)]) -> PolicyChange:
        return await service.roll_back(caller.name)

    @clients.get("/v1/policy", summary="The policy in force, and those before it", openapi_extra=guard.openapi)
    async def policy() -> PolicyState:
        return await service.policy()

    @clients.get("/v1/stats", summary="The load of every ingress replica", openapi_extra=guard.openapi)
    async def stats() -> Stats:
        return await service.stats()

    return admins, clients


_POLICY: dict[str, Any] = {
    "version": "mine-1",
    "photo": [{"stage": "backbone", "exit": [0.05, 0.95]}, {"stage": "vlm", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.05, 0.95]}, {"stage": "video", "exit": [0.5, 0.5]}],
}


def policy_body(description: str) -> dict[str, Any]:
    """OpenAPI's account of a body that holds a policy, or rules with one."""
    content = {"application/json": {"schema": {"type": "object"}, "example": _POLICY}}
    return {"requestBody": {"required": True, "description": description, "content": content}}
