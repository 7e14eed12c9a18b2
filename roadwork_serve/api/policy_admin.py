"""Policy administration: put, roll back, refresh and show policies, on every ingress replica."""

from collections.abc import Callable, Mapping

from roadwork_serve.api.head_validation import validate_heads
from roadwork_serve.api.peers import Peers
from roadwork_serve.api.policy_store import PolicyStore, StoredRevision
from roadwork_serve.cascade.prediction import StageClient
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.schema import PolicyChange, PolicyRevision
from roadwork_serve.server_state import PolicyState


class PolicyAdmin:
    """Changes the active policy and reports it.

    Args:
        store: The revisions.
        active: Returns the active rollout of this replica.
        peers: The other ingress replicas.
        clients: The stages, to validate heads with.
        media: The limits of media.
    """

    def __init__(
        self,
        store: PolicyStore,
        active: Callable[[], Rollout],
        peers: Peers,
        clients: Mapping[str, StageClient],
        media: MediaLimits,
    ) -> None:
        self._store = store
        self._active = active
        self._peers = peers
        self._clients = clients
        self._media = media

    async def put_policy(self, rollout: Rollout, author: str) -> PolicyChange:
        """Activate a rollout on every replica. Raises PolicyRefused and PolicyConflict."""
        self._store.check(rollout)
        await validate_heads(rollout, self._clients, self._media)
        return await self._spread(await self._store.put(rollout, author))

    async def roll_back(self, author: str) -> PolicyChange:
        """Activate the previous rollout on every replica. Raises PolicyConflict."""
        return await self._spread(await self._store.roll_back(author))

    async def refresh(self) -> int:
        """Activate the newest revision on this replica. Return its number."""
        return await self._store.refresh()

    async def policy(self) -> PolicyState:
        """Return the active policy and the history."""
        rollout = self._active()
        return PolicyState(
            revision=self._store.revision,
            version=rollout.policy.version,
            rollout=rollout,
            history=[policy_revision(each) for each in await self._store.revisions()],
        )

    async def _spread(self, revision: StoredRevision) -> PolicyChange:
        """Refresh all replicas, and count those that use this revision now, or a newer one."""
        numbers = await self._peers.refresh_policies() or [self._store.revision]
        replicas = sum(number >= revision.revision for number in numbers)
        return PolicyChange(revision=revision.revision, version=revision.version, replicas=replicas)


def policy_revision(stored: StoredRevision) -> PolicyRevision:
    """Return the entry of the history for a stored revision."""
    return PolicyRevision(
        revision=stored.revision,
        version=stored.version,
        origin=stored.origin,
        author=stored.author,
        created_at=stored.created_at,
        rollback_of=stored.rollback_of,
    )
