"""Where numbered pages are kept so that every replica finds them: in Ray itself, or in this process."""

import asyncio
from typing import Protocol

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

_NAMESPACE = b"roadwork"


class Shelf(Protocol):
    """Pages that are numbered from 1, never changed, and thrown away from the front."""

    async def numbers(self) -> list[int]:
        """Of the pages that are kept, rising."""
        ...

    async def read(self, number: int) -> bytes | None:
        """A page, None where there is none."""
        ...

    async def add(self, number: int, page: bytes) -> bool:
        """Put a page there. False when somebody else was first: then theirs stays."""
        ...

    async def drop(self, number: int) -> None:
        """Throw a page away."""
        ...


class RayShelf:
    """Kept by Ray's head (its Global Control Store): for as long as the cluster lives, whatever becomes of replicas."""

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}/".encode()

    async def numbers(self) -> list[int]:
        """See `Shelf`."""
        keys = await asyncio.to_thread(_internal_kv_list, self._prefix, namespace=_NAMESPACE)
        return sorted(int(key.removeprefix(self._prefix)) for key in keys)

    async def read(self, number: int) -> bytes | None:
        """See `Shelf`."""
        return await asyncio.to_thread(_internal_kv_get, self._key(number), namespace=_NAMESPACE)

    async def add(self, number: int, page: bytes) -> bool:
        """See `Shelf`."""
        return not await asyncio.to_thread(_internal_kv_put, self._key(number), page, False, namespace=_NAMESPACE)

    async def drop(self, number: int) -> None:
        """See `Shelf`."""
        await asyncio.to_thread(_internal_kv_del, self._key(number), namespace=_NAMESPACE)

    def _key(self, number: int) -> bytes:
        return self._prefix + str(number).encode()


class MemoryShelf:
    """For one process without Ray."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    async def numbers(self) -> list[int]:
        """See `Shelf`."""
        return sorted(self.pages)

    async def read(self, number: int) -> bytes | None:
        """See `Shelf`."""
        return self.pages.get(number)

    async def add(self, number: int, page: bytes) -> bool:
        """See `Shelf`."""
        return self.pages.setdefault(number, page) is page

    async def drop(self, number: int) -> None:
        """See `Shelf`."""
        self.pages.pop(number, None)


def shelf(name: str) -> Shelf:
    """Ray's where it runs, else one in this process."""
    return RayShelf(name) if ray.is_initialized() else MemoryShelf()
