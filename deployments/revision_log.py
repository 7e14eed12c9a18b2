"""The log of policy revisions that all ingress replicas share: in Ray itself, or in this process."""

import asyncio

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

from roadwork_serve.api.revision_log import InMemoryRevisionLog, RevisionLog

_NAMESPACE = b"roadwork"


class RayRevisionLog:
    """A log in Ray's Global Control Store: it lives as long as the cluster, whatever happens to replicas."""

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}/".encode()

    async def numbers(self) -> list[int]:
        """See `RevisionLog`."""
        keys = await asyncio.to_thread(_internal_kv_list, self._prefix, namespace=_NAMESPACE)
        return sorted(int(key.removeprefix(self._prefix)) for key in keys)

    async def read(self, number: int) -> bytes | None:
        """See `RevisionLog`."""
        return await asyncio.to_thread(_internal_kv_get, self._key(number), namespace=_NAMESPACE)

    async def add(self, number: int, record: bytes) -> bool:
        """See `RevisionLog`."""
        return not await asyncio.to_thread(_internal_kv_put, self._key(number), record, False, namespace=_NAMESPACE)

    async def drop(self, number: int) -> None:
        """See `RevisionLog`."""
        await asyncio.to_thread(_internal_kv_del, self._key(number), namespace=_NAMESPACE)

    def _key(self, number: int) -> bytes:
        return self._prefix + str(number).encode()


def open_revision_log(name: str) -> RevisionLog:
    """Return Ray's log if Ray runs, else one in this process."""
    return RayRevisionLog(name) if ray.is_initialized() else InMemoryRevisionLog()
