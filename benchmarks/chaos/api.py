"""Client of the server's management API: stages that are up, the policy, remaining work."""

import time
from typing import Any

import httpx

from roadwork_serve.schema import PolicyChange, ReplicaStats, Stats
from roadwork_serve.server_state import PolicyState

_PATIENCE_S = 10.0


class Api:
    """A client of the server's management API. Close it with `async with`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=_PATIENCE_S,
            limits=httpx.Limits(max_keepalive_connections=0),
        )  # fmt: skip

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def stages_up(self, replicas: int) -> set[str]:
        """Return the stages that every ingress replica reports as up; none unless all replicas respond."""
        loads = await self.loads()
        if len(loads) < replicas:
            return set()
        return set.intersection(*({stage.stage for stage in load.stages if stage.up} for load in loads))

    async def is_responding(self) -> bool:
        """Return whether any ingress replica responds."""
        return bool(await self.loads())

    async def policy(self) -> dict[str, Any]:
        """Return the active policy. Raises httpx.HTTPError."""
        response = await self._client.get("/v1/policy")
        response.raise_for_status()
        return PolicyState.model_validate_json(response.content).rollout.policy.to_mapping()

    async def put_policy(self, policy: dict[str, Any]) -> PolicyChange:
        """Deploy a policy on every replica; idempotent. Raises httpx.HTTPError."""
        return _change(await self._client.put("/v1/policy", json=policy))

    async def roll_back(self) -> PolicyChange:
        """Restore the previous policy. Raises httpx.HTTPError."""
        return _change(await self._client.post("/v1/policy/rollback"))

    async def remaining_work(self, replicas: int, within_s: float) -> dict[str, dict[str, int]]:
        """Return the remaining requests of each ingress replica, by kind, once they are done or the time is over."""
        found: dict[str, dict[str, int]] = {}
        give_up_at = time.monotonic() + within_s
        while len(found) < replicas or any(any(each.values()) for each in found.values()):
            if time.monotonic() > give_up_at:
                break
            found |= {load.replica: _work_of(load) for load in await self.loads()}
        return found

    async def loads(self) -> list[ReplicaStats]:
        """Return the statistics of the ingress replicas that respond; none if the server does not."""
        try:
            response = await self._client.get("/v1/stats")
        except httpx.HTTPError:
            return []
        return Stats.model_validate_json(response.content).replicas if response.status_code == 200 else []


def _change(response: httpx.Response) -> PolicyChange:
    response.raise_for_status()
    return PolicyChange.model_validate_json(response.content)


def _work_of(load: ReplicaStats) -> dict[str, int]:
    work = {"in flight": load.in_flight, "decoding": load.decoding}
    for stage in load.stages:
        work |= {f"{stage.stage} queued": stage.queued, f"{stage.stage} in flight": stage.in_flight}
    return work
