"""The routes that change and show the policy."""

import json
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request

from roadwork_serve.api.auth import Authenticator, Caller
from roadwork_serve.api.policy_store import parse_rollout
from roadwork_serve.api.problem_details import documented
from roadwork_serve.api.request_body import read_whole
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import BadRequest, MediaTooLarge, PolicyConflict, PolicyRefused
from roadwork_serve.schema import PolicyChange
from roadwork_serve.server_state import PolicyState

MAX_POLICY_BYTES = 256 * 1024


class PolicyService(Protocol):
    """Policy administration as the routes need it; see `policy_admin.PolicyAdmin`."""

    async def put_policy(self, rollout: Rollout, author: str) -> PolicyChange:
        """Activate a rollout on every replica. Raises PolicyRefused and PolicyConflict."""
        ...

    async def roll_back(self, author: str) -> PolicyChange:
        """Activate the previous rollout on every replica. Raises PolicyConflict."""
        ...

    async def policy(self) -> PolicyState:
        """Return the active policy and the history."""
        ...


def policy_routes(service: PolicyService, auth: Authenticator) -> tuple[APIRouter, ...]:
    """Return the routes, one router for each role."""
    admins, clients = auth.router("admin", "policy"), auth.router("client", "policy")

    @admins.put(
        "/v1/policy",
        summary="Activate a policy on every replica",
        responses=documented(
            BadRequest("the body is not JSON: Expecting value"),
            MediaTooLarge(f"the request is larger than {MAX_POLICY_BYTES:,} bytes; send less"),
            PolicyConflict(
                "version 'mini-2' has been used for a different policy; give this policy a version of its own"
            ),
            PolicyRefused("policy.photo[0].exit: low 0.9 is above high 0.1; write [0.1, 0.9]?"),
        ),
        openapi_extra=policy_body(
            "A policy, or a rollout: a policy with an optional A/B split, shadow policy and audit."
        ),
    )
    async def put_policy(request: Request, caller: Annotated[Caller, Depends(auth.admin)]) -> PolicyChange:
        body = await read_whole(request, MAX_POLICY_BYTES)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        return await service.put_policy(parse_rollout(value), caller.name)

    @admins.post(
        "/v1/policy/rollback",
        summary="Activate the previous policy again",
        responses=documented(PolicyConflict("no earlier revision is stored; put the policy you want")),
    )
    async def rollback_policy(caller: Annotated[Caller, Depends(auth.admin)]) -> PolicyChange:
        return await service.roll_back(caller.name)

    @clients.get("/v1/policy", summary="Show the active policy and its history", openapi_extra=auth.openapi)
    async def policy() -> PolicyState:
        return await service.policy()

    return admins, clients


_EXAMPLE: dict[str, Any] = {
    "version": "mine-1",
    "photo": [{"stage": "backbone", "exit": [0.05, 0.95]}, {"stage": "vlm", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.05, 0.95]}, {"stage": "video", "exit": [0.5, 0.5]}],
}
_SCHEMA = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Policy", "Rollout")]}


def policy_body(description: str) -> dict[str, Any]:
    """Return the OpenAPI description of a request body with a policy or a rollout.

    The schemas are those of `Info.policy` and `PolicyState.rollout`.
    """
    content = {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}}
    return {"requestBody": {"required": True, "description": description, "content": content}}
