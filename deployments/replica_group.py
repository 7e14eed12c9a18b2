"""All replicas of the ingress, seen from one of them."""

import contextlib
import math
import time

from ray import serve
from ray.serve.exceptions import RayServeException

from roadwork_serve.api.deployment_names import INGRESS
from roadwork_serve.schema import ReplicaStats

_SWAP_S = 5.0  # that all may take to go by new rules
_LOOK_S = 1.0  # that all may take to tell their load
_TOLD_FOR_S = 0.1  # others are not asked for it again: anybody may ask, and it costs every replica a call


class ReplicaGroup:
    """The replicas of this one's deployment. replica, app: names; of the latter none outside Serve."""

    def __init__(self) -> None:
        self.replica, self.app = _whereabouts()
        self._others: list[ReplicaStats] = []
        self._told_s = -math.inf

    async def look(self) -> list[int]:
        """Let all go by the newest rules. Returns the numbers of their editions, of those that told them in time."""
        return [number for number in await self._ask("look", _SWAP_S) if isinstance(number, int)]

    async def loads(self) -> list[ReplicaStats]:
        """Of the others."""
        asked_s = time.monotonic()
        if asked_s >= self._told_s + _TOLD_FOR_S:
            self._told_s = asked_s
            loads = [load for load in await self._ask("load", _LOOK_S) if isinstance(load, ReplicaStats)]
            self._others = [load for load in loads if load.replica != self.replica]
        return self._others

    async def _ask(self, method: str, within_s: float) -> list[object]:
        """What every replica, this one too, answers or raises; nothing when that takes too long."""
        if self.app:
            asked = serve.get_deployment_handle(INGRESS, self.app).broadcast(method)
            with contextlib.suppress(TimeoutError):
                return await asked.results_async(timeout_s=within_s, return_exceptions=True)
        return []


def _whereabouts() -> tuple[str, str]:
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return "alone", ""
    return context.replica_id.unique_id, context.app_name
