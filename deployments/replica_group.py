"""All replicas of the ingress, seen from one of them."""

import contextlib
import math
import time

from ray import serve
from ray.serve.exceptions import RayServeException

from roadwork_serve.api.deployment_names import INGRESS
from roadwork_serve.schema import ReplicaStats

_REFRESH_TIMEOUT_S = 5.0  # for all replicas to activate a policy
_LOAD_TIMEOUT_S = 1.0  # for all replicas to report their load
_CACHE_S = 0.1  # anybody may ask for the loads, and it costs every replica a call


class ReplicaGroup:
    """Implements `api.peers.Peers` with broadcasts to this replica's deployment."""

    def __init__(self) -> None:
        #: Id of this replica, and name of its application; the latter is empty outside Serve.
        self.replica, self.app = _names()
        self._others: list[ReplicaStats] = []
        self._fetched_s = -math.inf

    async def refresh_policies(self) -> list[int]:
        """Ask every replica to load the newest policy. Return the revision of each replica that answered in time."""
        answers = await self._broadcast("refresh_policy", _REFRESH_TIMEOUT_S)
        return [answer for answer in answers if isinstance(answer, int)]

    async def loads(self) -> list[ReplicaStats]:
        """Return the load of each other replica that answered in time."""
        now_s = time.monotonic()
        if now_s >= self._fetched_s + _CACHE_S:
            self._fetched_s = now_s
            answers = await self._broadcast("load", _LOAD_TIMEOUT_S)
            loads = [answer for answer in answers if isinstance(answer, ReplicaStats)]
            self._others = [load for load in loads if load.replica != self.replica]
        return self._others

    async def _broadcast(self, method: str, timeout_s: float) -> list[object]:
        """Return what every replica, this one included, returns or raises; an empty list after a timeout."""
        if self.app:
            responses = serve.get_deployment_handle(INGRESS, self.app).broadcast(method)
            with contextlib.suppress(TimeoutError):
                return await responses.results_async(timeout_s=timeout_s, return_exceptions=True)
        return []


def _names() -> tuple[str, str]:
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return "alone", ""
    return context.replica_id.unique_id, context.app_name
