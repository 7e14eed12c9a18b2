"""The ingress replicas of an application, seen from one of them."""

from typing import Protocol

from roadwork_serve.schema import ReplicaStats


class Peers(Protocol):
    """All replicas of the ingress."""

    #: Id of this replica.
    replica: str

    async def refresh_policies(self) -> list[int]:
        """Ask every replica to load the newest policy. Return the revision of each replica that answered in time."""
        ...

    async def loads(self) -> list[ReplicaStats]:
        """Return the load of each other replica that answered in time."""
        ...
